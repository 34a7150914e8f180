"""Stage ``prepare``: images found, checked, decoded, split and audited; the way from a user's files to arrays.

1. ``sources`` opens what ``data.source`` names. ``folders`` and ``archives`` list its images; ``layout`` reads classes and
   splits off their paths.
2. ``splits`` chooses the rows of each split and what is held out.
3. ``intake`` fills the arrays. ``decoding`` starts worker processes, and each worker runs ``images``, where one file becomes
   pixels.
4. ``audit`` looks for duplicates, leaks and oddities.
5. ``preparation`` is the whole of it; ``__main__`` is the command.

``tasks.embed`` decodes a user's folder by the same modules; nothing else imports this package.
"""
