"""The methods by name: one line each. A new method adds a line here, a file, a block in params.yaml and a test."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssl_core.engine.method import Method

# name: (year, family, paper)
METHODS: dict[str, tuple[int, str, str]] = {
    "exemplar": (2014, "pretext", "arXiv 1406.6909"),
    "context": (2015, "pretext", "arXiv 1505.05192"),
    "jigsaw": (2016, "pretext", "arXiv 1603.09246"),
    "counting": (2017, "pretext", "arXiv 1708.06734"),
    "rotation": (2018, "pretext", "arXiv 1803.07728"),
    "npid": (2018, "contrastive", "arXiv 1805.01978"),
    "cpc": (2018, "contrastive", "arXiv 1807.03748"),
    "moco": (2019, "contrastive", "arXiv 2003.04297"),
    "simclr": (2020, "contrastive", "arXiv 2002.05709"),
    "pirl": (2019, "contrastive", "arXiv 1912.01991"),
    "byol": (2020, "non-contrastive", "arXiv 2006.07733"),
    "pcl": (2020, "clustering", "arXiv 2005.04966"),
    "simsiam": (2020, "non-contrastive", "arXiv 2011.10566"),
    "barlow": (2021, "non-contrastive", "arXiv 2103.03230"),
    "vicreg": (2021, "non-contrastive", "arXiv 2105.04906"),
    "swav": (2020, "clustering", "arXiv 2006.09882"),
    "dino": (2021, "non-contrastive", "arXiv 2104.14294"),
    "nnclr": (2021, "contrastive", "arXiv 2104.14548"),
    "mae": (2021, "reconstruction", "arXiv 2111.06377"),
    "lejepa": (2025, "non-contrastive", "arXiv 2511.08544"),
}

# The rows to compare with; the same stages run them.
BASELINES: dict[str, str] = {
    "raw_pixels": "the pixels themselves as features",
    "random_init": "the untrained encoder",
    "supervised": "the same encoder trained with all labels, same budget",
}


def load_class(name: str) -> "type[Method]":
    """The class of a method or baseline: the only subclass of ``Method`` defined in ``ssl_core/methods/<name>.py``."""
    from ssl_core.engine.method import Method

    module = importlib.import_module(f"ssl_core.methods.{name}")
    classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    methods = [c for c in classes if issubclass(c, Method)]
    if len(methods) != 1:
        raise ValueError(f"ssl_core/methods/{name}.py must define exactly one Method, not {len(methods)}")
    return methods[0]
