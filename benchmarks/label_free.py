"""Can an encoder be chosen without labels, or with a few? Twenty methods on five sets of images, into ``docs/label-free.md``.

``python -m benchmarks.label_free --cifar10 cifar10.tar.xz --tiles magnetic-tiles.tar.xz``: archives with ``train/CLASS/*`` and
``test/CLASS/*``, and with ``CLASS/*`` (Huang et al., Visual Computer 2020). Every set is a clone of this project's last commit,
in which prepare, pretrain and evaluate run as ever, on a small budget: some three minutes of one core for a set. It can be
interrupted; the same command continues. ``--only SET`` trains one set and writes no page.
"""

import argparse
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ssl_core.catalogue import METHODS
from tasks import preset
from tasks.runtime import files, params

PAGE = Path("docs/label-free.md")
TALL, DECAY = 400, 0.65
"""Images of the first class of the uneven set, and how many times as many each further class has."""
FIRST_OF_OTHERS = 2500
"""From this number on, a class's images of CIFAR-10 are not those of the other set."""
QUEUE = {"queue": 512}
SMALL: dict[str, Any] = {
    "run": {"methods": list(METHODS), "seeds": [0]},
    "encoder": {"width": 16},
    "evaluate": {"layers": 1, "label_fractions": [], "bootstrap": 100},  # the layer that a user without labels gets
    "method": dict.fromkeys(("moco", "pcl", "swav", "nnclr"), QUEUE),
}
"""What is different from the shipped parameters in every set."""


@dataclass(frozen=True)
class Images:
    """One set of images."""

    about: str
    data: Mapping[str, Any]
    """What is different in ``data``."""
    make: Callable[[argparse.Namespace, Path], None] = lambda options, folder: None
    """Puts the images into a folder."""
    kept_aside: bool = False
    """Whether it only tests what was chosen on the others."""


def _unpacked(archive: Path, folder: Path, wanted: Callable[[PurePosixPath], PurePosixPath | None]) -> None:
    """Those files of a tar that ``wanted`` gives a name to."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = wanted(PurePosixPath(member.name)) if member.isfile() else None
            content = tar.extractfile(member) if name else None
            if name and content:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())


def cifar10(first: int, counts: Callable[[str], dict[str, int]]) -> Callable[[argparse.Namespace, Path], None]:
    """Images of CIFAR-10 from the number ``first`` on, of each class and split as many as ``counts`` says."""

    def make(options: argparse.Namespace, folder: Path) -> None:
        def wanted(name: PurePosixPath) -> PurePosixPath | None:
            split, label, file = name.parts[-3:]
            start = first if split == "train" else first // 5
            return name if start <= int(PurePosixPath(file).stem) < start + counts(split)[label] else None

        _unpacked(options.cifar10, folder, wanted)

    return make


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _even(split: str) -> dict[str, int]:
    return dict.fromkeys(CIFAR10, 400 if split == "train" else 200)


def _uneven(split: str) -> dict[str, int]:
    return {name: round((2 if split == "train" else 1) * TALL * DECAY**i) for i, name in enumerate(CIFAR10)}


def _tiles(options: argparse.Namespace, folder: Path) -> None:
    _unpacked(options.tiles, folder, lambda name: PurePosixPath(*name.parts[-2:]))


def _digits(options: argparse.Namespace, folder: Path) -> None:
    """The 1,797 digits of 8x8 pixels that come with scikit-learn (Alpaydin and Kaynak, UCI 1998)."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        target = folder / str(label) / f"{i:04}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15.9375).astype("uint8")).save(target)


FOLDER = {"source": "folder", "path": "images"}
SETS = {
    "sample": Images("Fashion-MNIST, the embedded part", {"max_train": 5000}),
    "cifar10": Images("CIFAR-10, 4,000 images in color", FOLDER | {"image_size": 32, "channels": 3}, cifar10(0, _even)),
    "tiles": Images("magnetic tiles, six very uneven classes", FOLDER | {"image_size": 32, "test_fraction": 0.4}, _tiles),
    "uneven": Images(
        "CIFAR-10, other images, grey, each class two thirds of the one before",
        FOLDER | {"image_size": 32},
        cifar10(FIRST_OF_OTHERS, _uneven),
        kept_aside=True,
    ),
    "digits": Images("handwritten digits, 8x8 pixels enlarged", FOLDER | {"test_fraction": 0.4}, _digits, kept_aside=True),
}


def workspace(directory: Path, images: Images, options: argparse.Namespace, small: Mapping[str, Any] = SMALL) -> None:
    """A clone of the project's committed state with the small budget and the set's images."""
    if (directory / "READY").exists():
        return
    if not (directory / ".git").is_dir():
        subprocess.run(["git", "clone", "--quiet", ".", str(directory)], check=True)
    images.make(options, directory / "images")
    values = {**small, "data": images.data, "train": {**small.get("train", {}), "images": options.images}}
    text, *_ = preset.apply(params.text(directory / params.PARAMS), "label-free", values)
    params.write(text, directory / params.PARAMS)
    files.write_text(directory / "READY", "")


def train(directory: Path) -> None:
    """Prepare, pretrain and evaluate in a workspace, in one process: starting one takes as long as a small evaluation."""
    from tasks.evaluate.__main__ import make as evaluate
    from tasks.prepare.__main__ import make as prepare
    from tasks.pretrain.__main__ import make as pretrain
    from tasks.runtime import dataset
    from tasks.runtime.stage import main as execute

    os.chdir(directory)
    if not dataset.PREPARED.exists():
        execute(prepare)
    for name in params.run_config(params.load()).methods:
        for stage, out in ((pretrain, f"out/encoders/{name}-0"), (evaluate, f"out/metrics/{name}-0.json")):
            if not Path(out).exists():
                execute(lambda stage=stage, name=name: stage(name, 0))


def main() -> int:
    """Clone, train, study, write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_free", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cifar10", type=Path, required=True, help="archive of CIFAR-10 as image files")
    parser.add_argument("--tiles", type=Path, required=True, help="archive of the magnetic tiles")
    parser.add_argument("--work", type=Path, default=Path(".ssl/label-free"), help="where to work (kept, to continue)")
    parser.add_argument("--images", type=int, default=12000, help="train.images; another number: another --work")
    parser.add_argument("--only", choices=SETS, help="train one set, and write no page")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)  # within a workspace
    options = parser.parse_args()
    if options.train:
        train(options.work)
        return 0
    for name in [options.only] if options.only else SETS:
        directory = options.work.resolve() / name
        workspace(directory, SETS[name], options)
        here = ["--cifar10", str(options.cifar10), "--tiles", str(options.tiles), "--work", "."]
        subprocess.run([sys.executable, "-m", "benchmarks.label_free", *here, "--train"], cwd=directory, check=True)
    if not options.only:
        from benchmarks import label_free_study

        found = {name: (images.about, options.work / name, images.kept_aside) for name, images in SETS.items()}
        files.write_text(
            PAGE,
            label_free_study.page(found, f"--cifar10 cifar10.tar.xz --tiles magnetic-tiles.tar.xz --images {options.images}"),
        )
        print(f"written: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
