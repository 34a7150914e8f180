"""Stage ``prepare``: images found, checked, decoded, split and audited; the way from a user's files to arrays.

1. ``source`` opens what ``data.source`` names: a module of ``sources``. A source lists its images. ``archives`` reads tar and
   zip files for it; ``names`` tells images from other files, ``layout`` reads classes and splits off their names, ``labels``
   off lists and shards.
2. ``splits`` chooses the rows of each split and what is held out.
3. ``intake`` fills the arrays. ``workers`` starts worker processes, and each of them runs ``decoding``, where one file
   becomes pixels, or ``bands`` where it has more channels or bits than a picture, or ``dicom``. ``header`` judges a picture
   before that, ``previews`` and ``jpeg`` find what is not all of it. ``color_space``, ``transparency`` and ``levels`` tell
   what is lost. With ``data.tile`` a source is ``tiled`` before, and ``tiling`` decodes one tile. ``unreadable`` names what
   no decoder takes.
4. ``auditing`` looks for duplicates, leaks and oddities. ``tasks.runtime.audit`` is the file it fills.
5. ``preparation`` is the whole of it; ``__main__`` is the command. ``pool`` sets a task (``run.tasks``) beside the pool.

``tasks.embed`` decodes a user's folder by the same modules; nothing else imports this package.
"""

from tasks.runtime import signals

signals.watch_command()
