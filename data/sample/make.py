"""How ``fashion-mnist-12k.npy.xz`` was made: ``python -m data.sample.make DIRECTORY`` with Fashion-MNIST's four .gz files.

Debian's package ``dataset-fashion-mnist`` puts them in /usr/share/datasets/fashion-mnist. The rule: the first 1,000 training
and the first 200 test images of each class, in the originals' order.
"""

import hashlib
import json
import lzma
import sys
from pathlib import Path

import numpy as np

from tasks.prepare.sources import read_idx

HERE = Path(__file__).resolve().parent
CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
SPLITS = {"train": ("train", 1000), "test": ("t10k", 200)}


def main(originals: Path) -> None:
    """Write the data file and its description beside this script."""
    target = HERE / "fashion-mnist-12k.npy.xz"
    with lzma.open(target, "wb", preset=9) as file:
        for prefix, count in SPLITS.values():
            images = read_idx(originals / f"{prefix}-images-idx3-ubyte.gz")
            labels = read_idx(originals / f"{prefix}-labels-idx1-ubyte.gz")
            rows = np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(len(CLASSES))]))
            for array in (images[rows], labels[rows]):
                np.lib.format.write_array(
                    file,
                    np.ascontiguousarray(array),
                    version=(1, 0),
                    allow_pickle=False,
                )
    facts = {
        "name": "fashion-mnist-12k",
        "file": target.name,
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
        "classes": CLASSES,
        "source": "Fashion-MNIST, https://github.com/zalandoresearch/fashion-mnist; a class-balanced part",
        "license": "MIT, Copyright (c) 2017 Zalando SE",
    }
    (HERE / "sample.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
