"""From a source to arrays on disk: every chosen image decoded into its row, or told why not."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tasks.prepare import images
from tasks.prepare.decoding import Done, Job, decode_all
from tasks.prepare.source import ArraySource, Source
from tasks.runtime.dataset import BLOCK, Array
from tasks.runtime.params import DataConfig
from tasks.runtime.progress import Progress

ONE_WORKER = 256
"""Up to this many files one worker is enough: each costs the time to start it."""


@dataclass
class Split:
    """One split while it is being made."""

    path: Path
    """The .npy file of the images."""
    rows: Array
    """(N,) positions in the source."""
    labels: Array
    names: list[str]
    images: Array
    sizes: Array
    """(N, 2) original width and height."""
    files: Array
    """(N,) first 64 bits of each file's sha256; 0 for images that come decoded."""

    def drop(self, mask: Array) -> None:
        """Remove the rows where ``mask``, on disk as well."""
        if not mask.any():
            return
        keep = np.flatnonzero(~mask)
        old = self.path.with_suffix(".old")
        self.path.rename(old)
        source, self.images = self.images, create(self.path, (len(keep), *self.images.shape[1:]))
        for start in range(0, len(keep), BLOCK):
            self.images[start : start + BLOCK] = source[keep[start : start + BLOCK]]
        old.unlink()
        self.rows, self.labels, self.sizes, self.files = (a[keep] for a in (self.rows, self.labels, self.sizes, self.files))
        self.names = [self.names[i] for i in keep]


@dataclass
class Seen:
    """What decoding found out."""

    bad: list[tuple[str, str]]
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


def create(path: Path, shape: tuple[int, ...]) -> Array:
    """A writable uint8 array in a .npy file."""
    if 0 in shape:
        np.save(path, np.zeros(shape, np.uint8))
        return np.zeros(shape, np.uint8)
    return np.lib.format.open_memmap(path, "w+", np.uint8, shape)


def new_split(directory: Path, name: str, rows: Array, source: Source, config: DataConfig) -> Split:
    """An empty split with room for ``rows``."""
    path = directory / f"{name}_images.npy"
    n, size = len(rows), config.image_size
    labels = np.array([source.items[i].label for i in rows], np.int64)
    pixels = create(path, (n, config.channels, size, size))
    return Split(
        path, rows, labels, [source.items[i].name for i in rows], pixels, np.zeros((n, 2), np.int64), np.zeros(n, np.uint64)
    )


def decode_into(
    source: Source, splits: dict[str, Split], config: DataConfig, check: Callable[[], None], file: Path | None
) -> Seen:
    """Fill the splits with pixels; rows that cannot be used are dropped and told."""
    place = {int(row): (split, i) for split in splits.values() for i, row in enumerate(split.rows)}
    good = {name: np.zeros(len(split.rows), bool) for name, split in splits.items()}
    seen = Seen(list(source.bad))
    progress = Progress("prepare: reading images", len(place), "images", file=file)
    for number, done in enumerate(contents(source, sorted(place), config), 1):
        check()
        split, at = place[done.row]
        reason = done.bad or store(split, at, done, source, seen)
        if reason:
            seen.bad.append((source.items[done.row].name, reason))
        else:
            good["train" if split is splits["train"] else "test"][at] = True
        progress.update(number)
    for name, split in splits.items():
        split.drop(~good[name])
    seen.bad.sort()
    return seen


def contents(source: Source, rows: list[int], config: DataConfig) -> Iterator[Done]:
    """Every row decoded, in any order."""
    size, channels = config.image_size, config.channels
    if not isinstance(source, ArraySource):
        jobs = (Job(row, source.items[row].name, content) for row, content in source.read(rows))
        with contextlib.closing(decode_all(jobs, size, channels, workers=1 if len(rows) <= ONE_WORKER else None)) as answers:
            yield from answers
        return
    for row, pixels in source.read(rows):
        height, width = pixels.shape[:2]
        mode = "RGB" if pixels.ndim == 3 else "L"
        facts = images.Facts(width, height, mode, "array", "")
        yield Done(row, images.from_array(pixels, size, channels), facts)


def store(split: Split, at: int, done: Done, source: Source, seen: Seen) -> str:
    """Put one decoded image in its place; returns a reason if it must not be used."""
    facts = done.facts
    assert facts is not None
    expected = source.sums.get(source.items[done.row].name)
    if expected is not None and expected != facts.sha256:
        return "differs from its hash in SHA256SUMS"
    _, channels, height, width = split.images.shape
    split.images[at] = np.frombuffer(done.pixels, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
    split.sizes[at] = facts.width, facts.height
    split.files[at] = int(facts.sha256[:16] or "0", 16)
    seen.formats[facts.format] += 1
    seen.modes[facts.mode] += 1
    seen.notes.update(facts.notes)
    return ""
