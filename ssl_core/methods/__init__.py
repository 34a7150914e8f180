"""One file for each method, and for each baseline to compare them with.

A file holds everything about its method and nothing else. Read it from top to bottom:

1. the docstring: paper, idea, equation, guards, and where this code deviates from the paper and why. What concerns all of
   them stands here: the common views (``augment``) have no blur and no solarization as shipped, which small images do not
   stand, and crop less than the papers do, for short trainings (decision 19);
2. ``Config``: the method's numbers, each with the paper's value; the values in use are in params.yaml;
3. what only this method computes, as plain functions of tensors;
4. the class: what it declares (title, year, family, paper), its networks, ``views`` (all randomness), ``loss``.

``simclr`` is the shortest to begin with, ``moco`` the first with a memory, ``pcl`` the first with work between epochs.
``ssl_core.engine.method`` is the contract that all keep, ``ssl_core.parts`` what several are made of. No method imports
another. ``ssl_core.catalogue`` finds the files; docs/adding-a-method.md adds one.
"""
