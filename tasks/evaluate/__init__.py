"""Stage ``evaluate``: one encoder's frozen features, and what they are worth.

``__main__`` is the command. ``evaluation`` extracts the features, has ``ssl_core/evaluation`` score them, and writes
features, metrics, predictions and the journal.
"""

from tasks.runtime import signals

signals.watch_command()
