"""Stage ``pretrain``: one training of one method or baseline, and what is written while it goes.

``__main__`` is the command: it starts further processes where ``train.processes`` asks for them. ``training`` builds the
method, resumes it, runs the loop of ``ssl_core/engine`` and writes the encoder, the history and the journal. ``sheet`` draws
the views that the method saw.
"""

from tasks.runtime import signals

signals.watch_command()
