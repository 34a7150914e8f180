"""From a source to arrays on disk: every chosen image decoded into its row, or told why not."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.prepare import bands, decoding, levels
from tasks.prepare.source import ArraySource, Source
from tasks.prepare.workers import Done, Job, decode_all
from tasks.runtime.dataset import BLOCK, Array
from tasks.runtime.errors import IntegrityError
from tasks.runtime.params import DataConfig
from tasks.runtime.progress import Progress

ONE_WORKER = 256
"""Up to this many files one worker is enough: each costs the time to start it."""
DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and scanners give; the first that holds the largest value is taken."""


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
    """(N,) first 64 bits of each file's sha256, plus the number of the tile; 0 for images that come decoded."""

    def put(self, at: int, pixels: bytes) -> None:
        """Store the pixels of row ``at``, given in H, W, C order."""
        _, channels, height, width = self.images.shape
        self.images[at] = np.frombuffer(pixels, self.images.dtype).reshape(height, width, channels).transpose(2, 0, 1)

    def drop(self, mask: Array) -> None:
        """Remove the rows where ``mask``, on disk as well."""
        if not mask.any():
            return
        keep = np.flatnonzero(~mask)
        old = self.path.with_suffix(".old")
        self.path.rename(old)
        source, self.images = self.images, create(self.path, (len(keep), *self.images.shape[1:]), self.images.dtype)
        for start in range(0, len(keep), BLOCK):
            self.images[start : start + BLOCK] = source[keep[start : start + BLOCK]]
        old.unlink()
        self.rows, self.labels, self.sizes, self.files = (a[keep] for a in (self.rows, self.labels, self.sizes, self.files))
        self.names = [self.names[i] for i in keep]


@dataclass
class Seen:
    """What decoding found out."""

    bad: list[tuple[str, str]]
    """(name, reason) of the files that cannot be used."""
    bit_depth: int = decoding.DEPTH
    """Bits that the images with more than 8 are scaled from."""
    peak: int = 0
    """Largest value among these images; 0: there are none."""
    usual: int = 0
    """Value that no image has in more than 1 of 100 of its pixels."""
    few: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """By the row of the source, of images of which 8 bits leave few levels of grey: ``levels`` and ``reach`` of their facts."""
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


def create(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A writable array in a .npy file."""
    if 0 in shape:
        np.save(path, np.zeros(shape, dtype))
        return np.zeros(shape, dtype)
    return np.lib.format.open_memmap(path, "w+", dtype, shape)


def new_split(directory: Path, name: str, rows: Array, source: Source, config: DataConfig) -> Split:
    """An empty split with room for ``rows``."""
    path = directory / f"{name}_images.npy"
    n, size = len(rows), config.stored
    labels = np.array([source.items[i].label for i in rows], np.int64)
    pixels = create(path, (n, config.channels, size, size), np.dtype(f"uint{config.bits}"))
    return Split(
        path, rows, labels, [source.items[i].name for i in rows], pixels, np.zeros((n, 2), np.int64), np.zeros(n, np.uint64)
    )


def decode_into(
    source: Source, splits: dict[str, Split], config: DataConfig, check: Callable[[], None], file: Path | None
) -> Seen:
    """Fill the splits with pixels; rows that cannot be used are dropped and told.

    Args:
        check: called now and then; may raise to stop.
        file: where to leave the progress for a watching process.
    """
    places = {int(row): (split, i) for split in splits.values() for i, row in enumerate(split.rows)}
    usable = {name: np.zeros(len(split.rows), bool) for name, split in splits.items()}
    seen = Seen(list(source.bad), bit_depth=config.bit_depth or decoding.DEPTH)
    deep: list[int] = []
    progress = Progress("prepare: reading images", len(places), "images", file=file)
    for number, done in enumerate(contents(source, sorted(places), config, seen.bit_depth), 1):
        check()
        split, at = places[done.row]
        reason = done.bad or store(split, at, done, source, seen)
        if reason:
            seen.bad.append((source.items[done.row].name, reason))
        else:
            usable["train" if split is splits["train"] else "test"][at] = True
            deep += [done.row] if done.facts and done.facts.peak else []
        progress.update(number)
    if deep:
        scale_alike(source, places, sorted(deep), config, seen, check)
    if seen.few:
        seen.notes[_few_levels(source, seen)] = len(seen.few)
    for name, split in splits.items():
        split.drop(~usable[name])
    seen.bad.sort()
    return seen


def depth_of(value: int) -> int:
    """Bits that hold it."""
    return next(bits for bits in DEPTHS if value < 2**bits)


def scale_alike(
    source: Source,
    places: Mapping[int, tuple[Split, int]],
    deep: list[int],
    config: DataConfig,
    seen: Seen,
    check: Callable[[], None],
) -> None:
    """Choose one bit depth for all images with more than 8 bits, and decode them again if it is another than the first.

    Args:
        places: row of the source -> split and row in it.
        deep: the rows of these images.

    Raises:
        IntegrityError: a file cannot be read any more.
    """
    first = seen.bit_depth
    seen.bit_depth = config.bit_depth or depth_of(seen.peak)
    few = ""
    if depth_of(seen.usual) < seen.bit_depth and not config.bit_depth:
        few = (
            f"; only 1 in 100 pixels of any image lies above {seen.usual}: if those are faults of the camera, set"
            f" data.bit_depth: {depth_of(seen.usual)}"
        )
    said = f"more than 8 bits a pixel, scaled from {seen.bit_depth} bits (the largest value is {seen.peak}{few})"
    seen.notes[said] = len(deep)
    for done in contents(source, deep, config, seen.bit_depth) if seen.bit_depth != first else ():
        check()
        if done.bad:
            raise IntegrityError(f"{source.items[done.row].name!r} changed while it was read; run the same command again")
        split, at = places[done.row]
        split.put(at, done.pixels)
        _count_levels(done, seen)


def contents(source: Source, rows: list[int], config: DataConfig, depth: int) -> Iterator[Done]:
    """Every row decoded, in any order."""
    size, channels, bits, fit = config.stored, config.channels, config.bits, config.fit
    if not isinstance(source, ArraySource):
        jobs = (Job(row, source.items[row].name, content, source.part(row)) for row, content in source.read(rows))
        workers = 1 if len(rows) <= ONE_WORKER else None
        with contextlib.closing(decode_all(jobs, size, channels, workers, depth, bits, fit)) as answers:
            yield from answers
        return
    for row, pixels in source.read(rows):
        height, width = pixels.shape[:2]
        if pixels.dtype == np.uint8 and channels in (1, 3) and bits == 8 and pixels.shape[2:] in ((), (3,)):
            facts = decoding.Facts(width, height, "RGB" if pixels.ndim == 3 else "L", "array", "")
            yield Done(row, from_array(pixels, size, channels, fit), facts)
            continue
        values = bands.as_bands(pixels, channels)
        facts = decoding.Facts(width, height, f"{values.shape[2]} bands", "array", "")
        try:
            yield Done(row, bands.store(values, size, channels, depth, bits, fit, facts), facts)
        except decoding.BadImage as error:
            yield Done(row, bad=str(error))


def from_array(pixels: Any, size: int, channels: int, fit: str = "crop") -> bytes:
    """Decoded pixels (H, W) or (H, W, 3) uint8 as ``decode`` would give them."""
    same = pixels.shape[:2] == (size, size) and pixels.ndim == (2 if channels == 1 else 3)
    return (
        pixels.tobytes() if same else decoding.square(decoding.flatten(Image.fromarray(pixels), channels), size, fit).tobytes()
    )


def store(split: Split, at: int, done: Done, source: Source, seen: Seen) -> str:
    """Put one decoded image in its place; returns a reason if it must not be used."""
    facts = done.facts
    assert facts is not None
    if reason := source.differs(done.row, facts.sha256):
        return reason
    split.put(at, done.pixels)
    split.sizes[at] = facts.width, facts.height
    _, number = source.part(done.row) or (0, 0)
    split.files[at] = (int(facts.sha256[:16] or "0", 16) + number) % 2**64  # tiles of one file are no copies
    seen.formats[facts.format] += 1
    seen.modes[facts.mode] += 1
    seen.notes.update(facts.notes)
    if facts.peak:
        seen.peak, seen.usual = max(seen.peak, facts.peak), max(seen.usual, facts.usual)
    _count_levels(done, seen)
    return ""


def _few_levels(source: Source, seen: Seen) -> str:
    """What to say of them, with the depth that is advised for pixels which are too bright, if one is."""
    reach = max(reach for _, _, reach in seen.few.values())
    is_usual = reach <= seen.usual and depth_of(seen.usual) < seen.bit_depth
    first = min(source.items[row].name for row in seen.few)
    enough = depth_of(seen.usual if is_usual else reach)
    return levels.told([found[:2] for found in seen.few.values()], first, enough, seen.bit_depth)


def _count_levels(done: Done, seen: Seen) -> None:
    """Note whether this image, as it was decoded last, is one of few levels."""
    seen.few.pop(done.row, None)
    if done.facts and done.facts.levels:
        kept, had = done.facts.levels
        seen.few[done.row] = kept, had, done.facts.reach
