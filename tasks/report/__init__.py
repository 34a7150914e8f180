"""Stage ``report``: the page that people read, the table as CSV and Markdown.

``__main__`` is the command. ``page`` gathers what the template ``page.html.j2`` shows: ``findings`` says what the audit and
the training found, ``figures`` draws charts, ``illustrations`` and ``pictures`` show images, ``tsne`` lays features out in
the plane. The numbers come from ``tasks.results`` and the table from ``tasks.leaderboard``.
"""
