"""The sources of images: ``data.source: NAME`` in params.yaml is the module NAME here.

The pipeline calls one function of a module, ``open_source(config)``. The function returns a ``Source``: an ``ArraySource``
where the images come decoded, a ``FileSource`` where they are files. ``tasks.prepare.source`` has these classes and finds
the module. A new source is a new module; docs/adding-a-data-source.md shows how.
"""
