"""``source: sample``: the embedded data set, a part of Fashion-MNIST."""

import lzma
from pathlib import Path

import numpy as np

from ssl_core.config import ConfigError
from tasks.prepare.source import ArraySource, Source
from tasks.runtime import files
from tasks.runtime.errors import IntegrityError
from tasks.runtime.params import DataConfig

SAMPLE = Path("data/sample")


def open_source(config: DataConfig) -> Source:
    """The embedded data set.

    Raises:
        ConfigError: ``data.path`` is another folder.
        IntegrityError: the file is missing or not the one that was shipped.
    """
    if Path(config.path) != SAMPLE:
        raise ConfigError(f"data.path is {config.path}; data.source: sample needs data.path: {SAMPLE}")
    return read_sample(SAMPLE)


def read_sample(directory: Path) -> Source:
    """The data set in ``directory``, checked against the hash beside it.

    Raises:
        IntegrityError: the file is missing or not the one that was shipped.
    """
    facts = files.read_json(directory / "sample.json")
    path = directory / facts["file"]
    if not path.is_file() or files.sha256(path) != facts["sha256"]:
        raise IntegrityError(f"{path} is missing or damaged; restore it: git checkout {directory}")
    with lzma.open(path) as file:
        arrays = [np.lib.format.read_array(file, allow_pickle=False) for _ in range(4)]
    splits = [("train", *arrays[:2]), ("test", *arrays[2:])]
    return ArraySource(facts["name"], facts["source"], facts["license"], facts["classes"], splits)
