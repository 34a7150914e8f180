"""Stage ``report``: one page that people read, and the table of results as CSV and Markdown.

``__main__`` is the command. It calls ``page``, which gathers what the template ``page.html.j2`` shows:

1. ``tasks.results`` reads what was found, ``tasks.leaderboard`` writes the table; ``tasks.columns`` says which scores have a
   column.
2. ``findings`` says what the audit of the data found.
3. ``illustrations`` reads histories, features and images and has them drawn: ``figures`` and ``curves`` draw charts,
   ``pictures`` makes thumbnails, sheets of neighbors and maps.
4. ``small`` makes what DVC's own commands show.

Nothing else imports this package. pandas, matplotlib, scikit-learn and jinja2 are imported where they are needed.
"""

from tasks.runtime import signals

signals.watch_command()
