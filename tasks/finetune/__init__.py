"""Stage ``finetune``: one encoder trained further with labels, at several shares of them, by the recipe that all share.

``__main__`` is the command. ``trials`` trains, chooses the rate, and writes metrics, predictions and the journal.
"""

from tasks.runtime import signals

signals.watch_command()
