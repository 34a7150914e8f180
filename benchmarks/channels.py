"""Does every method learn from 4 and 13 bands, and what do 16 bits give? Into ``docs/channels.md``.

``python -m benchmarks.channels --cifar10 cifar10.tar.xz`` (an archive with ``train/CLASS/*`` and ``test/CLASS/*``; the dark
images are made from the embedded ones). Every set is a clone of this project's last commit in which prepare, pretrain and
evaluate run as ever. It can be interrupted; the same command continues. The page is written after each set.

``--methods counting lejepa --images 960000 --page docs/channels-longer.md`` asks the same of a few methods, trained longer.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.label_free import CIFAR10, FOLDER, SMALL, Images, cifar10, train, workspace
from benchmarks.measure import machine
from ssl_core.catalogue import METHODS
from tasks import metrics
from tasks.leaderboard import percent
from tasks.prepare.sources.sample import SAMPLE, read_sample
from tasks.runtime import files
from tasks.runtime.words import markdown

PAGE, LONGER = Path("docs/channels.md"), Path("docs/channels-longer.md")
SHARE = 3
"""Every so manieth of the embedded images is taken for the dark ones."""
EACH = {"train": 1000, "test": 300}
"""Images of each class of CIFAR-10."""
NOISE = 4.0
"""Of a band, in levels of 255."""
DARK = 600
"""The brightest value of the dark images, of 65,535: 2.3 levels of 8 bits."""
UNTRAINED = "random_init"
WIDE = 16
ADAMW = {"optimizer": "adamw", "lr": 0.004, "weight_decay": 0.0001}
"""Better for Jigsaw and BYOL on color photographs than the shipped optimizer, as presets/evidence.yaml says."""
SMALLER = SMALL | {
    "encoder": {"width": WIDE},
    "evaluate": {"label_fractions": [], "bootstrap": 100},
    "method": SMALL["method"] | {name: {"train": ADAMW} for name in ("jigsaw", "byol")},
}
"""What is different from the shipped parameters in every set."""
FEW = ("rotation", "simclr")
"""The methods that are trained on the dark images."""
Array = np.ndarray[Any, Any]


def bands(image: Array, count: int, random: np.random.Generator) -> Array:
    """A color image (H, W, 3) uint8 as ``count`` bands (H, W, B) uint8: a spectrum from blue over green and red to beyond red.

    Between two colors it is a line, beyond red that line goes on; each band has noise of its own.
    """
    red, green, blue = np.moveaxis(image.astype(float), -1, 0)
    known = np.stack([blue, green, red, 2 * red - green])
    spots = np.linspace(0, len(known) - 1, count)
    low = np.minimum(spots.astype(int), len(known) - 2)
    part = (spots - low)[:, None, None]
    seen = (1 - part) * known[low] + part * known[low + 1]
    return np.moveaxis(np.rint(seen + random.normal(0, NOISE, seen.shape)).clip(0, 255).astype(np.uint8), 0, -1)


def in_bands(count: int) -> Callable[[argparse.Namespace, Path], None]:
    """Puts a part of CIFAR-10, in ``count`` bands, into ``SPLIT/CLASS/*.npy``."""

    def make(options: argparse.Namespace, folder: Path) -> None:
        random = np.random.default_rng(0)
        with tempfile.TemporaryDirectory() as place:
            cifar10(0, lambda split: dict.fromkeys(CIFAR10, EACH[split]))(options, Path(place))
            for path in sorted(p for p in Path(place).rglob("*") if p.is_file()):
                target = folder.joinpath(*path.parts[-3:]).with_suffix(".npy")
                target.parent.mkdir(parents=True, exist_ok=True)
                np.save(target, bands(np.asarray(Image.open(path).convert("RGB")), count, random))

    return make


def dark(image: Array) -> Array:
    """A grey image (H, W) uint8 as a dark one, uint16: what it shows lies in the low bits."""
    return np.rint(image * (DARK / 255)).astype(np.uint16)


def darkened(options: argparse.Namespace, folder: Path) -> None:
    """Puts a share of the embedded images, dark, into ``SPLIT/CLASS/*.npy``."""
    source = read_sample(SAMPLE)
    for row, image in source.read(range(0, len(source.items), SHARE)):
        item = source.items[row]
        target = folder / item.split / source.classes[item.label].replace("/", "-") / f"{row:06}.npy"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, dark(np.asarray(image)))


DEEP = FOLDER | {"channels": 1, "bit_depth": 16}
SETS = {
    "8 bits": Images("dark images, 8 bits kept", DEEP | {"bits": 8}, darkened),
    "16 bits": Images("dark images, 16 bits kept", DEEP | {"bits": 16}, darkened),
    "4 bands": Images("4 bands of 8 bits", FOLDER | {"image_size": 32, "channels": 4}, in_bands(4)),
    "13 bands": Images("13 bands of 8 bits", FOLDER | {"image_size": 32, "channels": 13}, in_bands(13)),
}
BANDS, DEPTHS = ("4 bands", "13 bands"), ("8 bits", "16 bits")


def methods(name: str, asked: Sequence[str] = tuple(METHODS)) -> list[str]:
    """Those of ``asked`` that are trained on a set."""
    return [method for method in METHODS if method in asked and (name in BANDS or method in FEW)]


Scores = Mapping[str, Sequence[float]]
"""By row: the test accuracy of a linear probe, one number for each encoder."""


def scores(directory: Path) -> Scores:
    """What the evaluations of a workspace found."""
    paths = sorted((directory / "out/metrics").glob("*-0.json"))
    return {p.stem.removesuffix("-0"): [float(m.score("linear_top1")) for m in metrics.load(p)] for p in paths}


def untrained(found: Scores) -> float:
    """The mean of the encoders that were not trained."""
    return statistics.mean(found[UNTRAINED])


def shown(found: Scores, name: str) -> list[str]:
    """The cells of a row for one set: its score, and by how much it is above the untrained encoders."""
    own = statistics.mean(found[name])
    if name == UNTRAINED:
        return [percent(own, statistics.stdev(found[name])), ""]
    return [percent(own), f"{100 * (own - untrained(found)):+.1f}"]


def table(found: Mapping[str, Scores], names: Sequence[str]) -> str:
    """The rows of the sets ``names``, in the order of the methods."""
    head = ["method", *(cell for name in names for cell in (name, "above untrained"))]
    rows = [*methods(names[0], list(found[names[0]])), UNTRAINED]
    return markdown([head, *([row, *(cell for name in names for cell in shown(found[name], row))] for row in rows)])


def compared(found: Scores, about: str) -> str:
    """Which methods are above the untrained encoders by more than these differ, as an item of a list."""
    apart = 2 * statistics.stdev(found[UNTRAINED])
    ahead = {name: found[name][0] - untrained(found) for name in METHODS if name in found}
    above = [name for name, points in ahead.items() if points > apart]
    below = [name for name, points in ahead.items() if points < -apart]
    within = [name for name in ahead if name not in (*above, *below)]
    return (
        f"- On {about}, {sum(points > 0 for points in ahead.values())} of {len(ahead)} are above the mean of the untrained"
        f" encoders, {len(above)} by more than twice\n  their standard deviation. Within it: {', '.join(within) or 'none'}."
        f" Below: {', '.join(below) or 'none'}."
    )


def page(found: Mapping[str, Scores], directory: Path, images: int, asked: Sequence[str] = tuple(METHODS)) -> str:
    """What ``docs/channels.md`` holds, of the sets that are done; of a few methods, ``docs/channels-longer.md``."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=directory, capture_output=True, text=True, check=True)
    every = list(asked) == list(METHODS)
    command = f"python -m benchmarks.channels --cifar10 cifar10.tar.xz --images {images}"
    command += "" if every else f" --methods {' '.join(asked)} --page {LONGER}"
    budget = BUDGET.format(images=images, steps=images // BATCH)
    budget += "" if every else " All methods, with the number of images that it says, are [on the page before](channels.md)."
    about = INTRODUCTION if every else INTRODUCTION.replace("# Other channels and depths", "# Other channels, trained longer")
    parts = [about, budget, "\n".join([f"Made by `{command}` at commit {commit.stdout.strip()}.", *machine()])]
    done = [name for name in BANDS if name in found]
    if done:
        said = "\n".join(compared(found[name], SETS[name].about) for name in done)
        longer = [f"[Some of them, trained longer]({LONGER.name})."] if every else []
        parts += [f"## {'All' if every else 'Some'} methods on 4 and 13 bands", said, *longer, table(found, done)]
    if set(DEPTHS) <= set(found):
        parts += ["## 16 bits against 8", DEPTH, table(found, DEPTHS)]
    missing = ", ".join(name for name in SETS if name not in found and methods(name, asked))
    return "\n\n".join([*parts, f"Not measured yet: {missing}."] if missing else parts) + "\n"


INTRODUCTION = f"""# Other channels and depths

Does every method learn something from images that are no photographs for the eye? The bands are made from
{len(CIFAR10) * EACH["train"]:,} training and {len(CIFAR10) * EACH["test"]:,} test images of CIFAR-10: a spectrum from blue over
green and red to beyond red, read at 4 and at 13 places, each with noise of its own. The dark images are a third of the embedded
ones (Fashion-MNIST, 28 px). The tables give the accuracy of a linear probe on the test images, in percent, on the layer that
held-out labels chose; beside it the points above the mean of three untrained small networks (`{UNTRAINED}`: mean and standard
deviation). MAE is a ViT, CPC has group normalization: other networks, whose own untrained values are not known here."""
BUDGET = f"""**Read the budget first.** One seed, the small encoder of width {WIDE}, and `train.images: {{images}}`: a method of
share 1 gets some {{steps}} steps, against 332 as shipped. Jigsaw and BYOL have AdamW, as on the
[page of evidence](evidence.md)."""
BATCH = 128
"""Images of a step, as shipped."""
DEPTH = f"""The images are so dark that their brightest value is {DARK} of 65,535. `data.bits: 8` leaves three levels of grey of
them, `data.bits: 16` keeps all."""


def main() -> int:
    """Clone, make the images, train, write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.channels", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path(".ssl/channels"), help="where to work (kept, to continue)")
    parser.add_argument("--cifar10", type=Path, help="archive of CIFAR-10 as image files")
    parser.add_argument("--images", type=int, default=240000, help="train.images; another number: another --work")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="those to train")
    parser.add_argument("--page", type=Path, default=PAGE, help="where to write")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)  # within a workspace
    options = parser.parse_args()
    if options.train:
        train(options.work)
        return 0
    if options.cifar10 is None:
        parser.error("--cifar10: the bands are made from its images")
    found: dict[str, Scores] = {}
    for name, images in SETS.items():
        if not methods(name, options.methods):
            continue
        directory = options.work.resolve() / name.replace(" ", "-")
        rows = {"run": {"methods": [UNTRAINED, *methods(name, options.methods)], "seeds": [0]}}
        workspace(directory, images, options, SMALLER | rows)
        command = [sys.executable, "-m", "benchmarks.channels", "--work", ".", "--train"]
        subprocess.run(command, cwd=directory, check=True)
        found[name] = scores(directory)
        files.write_text(options.page, page(found, directory, options.images, options.methods))
    print(f"written: {options.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
