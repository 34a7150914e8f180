"""When a stage runs: what is stale, in which order, how many at a time. Nothing here shapes a result.

1. ``graph`` asks DVC which stages there are and which are stale. ``image_path`` checks the user's folder for it.
2. ``schedule`` starts each stage as soon as those before it are done, as many at a time as the cores carry.
3. ``runner`` runs one stage as a ``dvc repro`` process, repeats it where that helps, and ends it when asked to. ``forks``
   makes that process start in no time.
4. ``outcome`` has the words for how a stage ended.
5. ``live`` shows the running stages on a terminal.
6. ``lock_files`` repairs what a crash left in DVC's own files, and writes dvc.lock in the order of the graph.
7. ``damage`` finds and removes what is not what dvc.lock records, in the workspace and in DVC's cache.

``tasks.run`` (make run), the flows and ``tasks.doctor`` call this package. DVC's Python API is imported in
``graph``, ``lock_files`` and ``forks`` alone.
"""
