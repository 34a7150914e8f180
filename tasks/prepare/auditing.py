"""Judges a data set: what a person should know before trusting numbers made from it.

Duplicates are found by a hash of the stored pixels: that is what an encoder sees. Near duplicates (resized, recompressed,
mirrored) are found by the correlation of the outlines (Laplacian) of 16 x 16 grey thumbnails; the idea is that of Barz and
Denzler, "Do we train on test data? Purging CIFAR of near-duplicates" (J. Imaging 2020), with a fixed descriptor instead of
a trained one. At 0.8 nearly every pair found in CIFAR-10 is the same picture to the eye.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.prepare.intake import Split
from tasks.prepare.layout import shown
from tasks.runtime.audit import Audit, Conflicts, Examples, Ignored, Labelled, Leaks, NearDuplicates, NearPair, Repeats, Sizes
from tasks.runtime.cores import cores
from tasks.runtime.dataset import BLOCK, Array, blocks, hashes
from tasks.runtime.words import apart, counted, few, printable

EXAMPLES = 10
NAMED = 10
"""Classes that the terminal names."""
SIDE = 16
"""Side of the thumbnails near duplicates are compared by."""
NEAR = (0.8, 0.98)
"""Lowest and highest correlation from which on two images count as the same picture; see ``threshold``."""
SPREAD = 6.0
"""How far, in median absolute deviations, a pair must stand out from what is usual in the data set."""
COLUMNS = 1024
"""Test images that a block of training images is compared with at once: their correlations take 8 MB."""
MEMORY = 2 << 30
"""Bytes that blocks of images which are searched side by side may take, in float32."""
MAX_PAIRS = 5e9
"""Compare at most this many pairs of images: above it, evenly spaced test images stand for all."""


# ---------------------------------------------------------------------- copies


@dataclass(frozen=True)
class Copies:
    """The part of the audit that compares images with each other."""

    duplicates: dict[str, Repeats]
    constant: dict[str, Examples]
    conflicts: Conflicts
    leaks: Leaks
    near_duplicates: NearDuplicates


def compare(
    train: Split, test: Split, classes: Sequence[str], drop_leaks: bool, check: Callable[[], None]
) -> tuple[Copies, Array]:
    """Find equal and similar images, and drop the leaked training rows when asked to. Beside what was found, (N,) uint64 of the
    training images that are left: equal for equal pixels.

    Args:
        classes: class names as shown.
        check: called between blocks; may raise to stop.
    """
    splits = {"train": train, "test": test}
    keys = {split: hashes(part.images) for split, part in splits.items()}
    names = {split: [shown(name) for name in part.names] for split, part in splits.items()}
    duplicates = {split: repeats(keys[split], names[split], part.files) for split, part in splits.items()}
    constant = {split: first(constant_rows(part.images), names[split]) for split, part in splits.items()}
    labels = np.concatenate([train.labels, test.labels])
    differing = conflicts(np.concatenate([keys["train"], keys["test"]]), labels, [*names["train"], *names["test"]], classes)
    leaked = np.isin(keys["train"], keys["test"])
    by_file = int((np.isin(train.files, test.files) & (train.files > 0)).sum())
    examples = first(leaked, names["train"])
    leaks = Leaks(examples.count, by_file, examples.count if drop_leaks else 0, examples.examples)
    copied = np.isin(keys["test"], keys["train"][~leaked] if drop_leaks else keys["train"])
    if drop_leaks:
        train.drop(leaked)
    near = near_duplicates(train.images, test.images, copied, check)
    return Copies(duplicates, constant, differing, leaks, near), keys["train"][~leaked] if drop_leaks else keys["train"]


def first(mask: Array, names: Sequence[str]) -> Examples:
    """How many rows ``mask`` (N,) chooses, and the names of the first of them."""
    rows = np.flatnonzero(mask)
    return Examples(len(rows), tuple(names[i] for i in rows[:EXAMPLES]))


def constant_rows(images: Array) -> Array:
    """(N,) bool: every pixel of a channel the same."""
    flat = [np.ptp(block.reshape(*block.shape[:2], -1), axis=2).max(axis=1) == 0 for _, block in blocks(images)]
    return np.concatenate(flat) if flat else np.zeros(0, bool)


def repeats(keys: Array, names: Sequence[str], file_keys: Array) -> Repeats:
    """How many images of a split are there more than once, and which.

    Args:
        keys: (N,) equal for equal pixels.
        file_keys: (N,) equal for equal files; 0 where there is no file.
    """
    unique, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts > 1)
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], several[:EXAMPLES])
    groups = (tuple(names[i] for i in order[s : s + min(counts[g], EXAMPLES)]) for s, g in zip(starts, several, strict=False))
    known = file_keys[file_keys > 0]
    return Repeats(len(several), len(keys) - len(unique), len(known) - len(np.unique(known)), tuple(groups))


def conflicts(keys: Array, labels: Array, names: Sequence[str], classes: Sequence[str]) -> Conflicts:
    """Equal images with different labels."""
    known = np.flatnonzero(labels >= 0)
    order = known[np.lexsort((labels[known], keys[known]))]
    differs = (keys[order][1:] == keys[order][:-1]) & (labels[order][1:] != labels[order][:-1])
    pairs = [(order[i], order[i + 1]) for i in np.flatnonzero(differs)]
    named = [tuple(Labelled(names[row], classes[labels[row]]) for row in pair) for pair in pairs[:EXAMPLES]]
    return Conflicts(len(pairs), tuple(named))


# ---------------------------------------------------------------------- near duplicates


def outlines(images: Array) -> Array:
    """(N, side * side) float32 of zero mean and unit length; zero for an image without structure."""
    grey = images.astype(np.float32).mean(axis=1) / np.iinfo(images.dtype).max
    pool = _area(images.shape[-1], min(SIDE, images.shape[-1]))
    small = pool @ grey @ pool.T
    edge = np.pad(small, ((0, 0), (1, 1), (1, 1)), mode="edge")
    lines = 4 * small - edge[:, :-2, 1:-1] - edge[:, 2:, 1:-1] - edge[:, 1:-1, :-2] - edge[:, 1:-1, 2:]
    flat = lines.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(length > 1e-3 * flat.shape[1] ** 0.5, flat / np.maximum(length, 1e-12), 0).astype(np.float32)


def halves(images: Array) -> tuple[Array, Array]:
    """The outlines of (N, C, S, S), what is alike left and right and what is opposite: (N, a) and (N, b), a + b numbers in all.

    The correlation of two images is the product of the first plus that of the second; with one of them mirrored, minus. Both
    together cost what one of them would cost without.
    """
    side = min(SIDE, images.shape[-1])
    lines, half = outlines(images).reshape(-1, side, side), side // 2
    left, right = lines[:, :, :half], lines[:, :, ::-1][:, :, :half]
    alike = np.concatenate([(left + right) * np.float32(0.5**0.5), lines[:, :, half : side - half]], axis=2)
    opposite = (left - right) * np.float32(0.5**0.5)
    return alike.reshape(len(images), -1), opposite.reshape(len(images), -1)


def threshold(best: Array) -> float:
    """From which correlation on a pair is a near duplicate, given the best one of each test image.

    Pictures that are all alike (clothes on black) correlate without being copies, so a pair must stand out.
    """
    low, high = NEAR
    usual = float(np.median(best))
    return min(high, max(low, usual + SPREAD * float(np.median(np.abs(best - usual)))))


def _area(size: int, side: int) -> Array:
    """(side, size): averages over equal, possibly fractional, pieces of a line."""
    edges = np.linspace(0, size, side + 1)
    left, right = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)
    overlap = np.clip(np.minimum(right, pixel + 1) - np.maximum(left, pixel), 0, None)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


def near_duplicates(train: Array, test: Array, skip: Array, check: Callable[[], None] = lambda: None) -> NearDuplicates:
    """Find the test images that look like a training image, straight or mirrored.

    Args:
        train, test: (N, C, S, S) and (M, C, S, S) uint8 or uint16.
        skip: (M,) bool, the test images not to look at (their exact copy is already known).
        check: called between blocks; may raise to stop.
    """
    rows = np.flatnonzero(~skip)
    allowed = int(MAX_PAIRS // max(len(train), 1))
    if len(rows) > allowed:
        rows = rows[np.linspace(0, len(rows) - 1, max(allowed, 1)).astype(int)]
    if not len(rows):
        return NearDuplicates(0, 0, NEAR[0], 0, ())
    even, odd = (
        np.concatenate(p) for p in zip(*(halves(test[r]) for r in np.array_split(rows, -(-len(rows) // BLOCK))), strict=True)
    )

    def search(block: tuple[int, Array]) -> tuple[Array, Array, Array]:
        """The highest correlation of each test image with images of the block, with which, and whether with it mirrored."""
        start, images = block
        own_even, own_odd = halves(images)
        found = []
        for first in range(0, len(rows), COLUMNS):
            difference = odd[first : first + COLUMNS] @ own_odd.T
            total = np.abs(difference)
            total += even[first : first + COLUMNS] @ own_even.T
            at = total.argmax(axis=1)[:, None]
            top, turned = (np.take_along_axis(x, at, axis=1)[:, 0] for x in (total, difference))
            found.append((top, start + at[:, 0], turned < 0))
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]

    best, nearest, mirrored = np.full(len(rows), -1.0, np.float32), np.zeros(len(rows), np.int64), np.zeros(len(rows), bool)
    at_once = max(1, min(cores(), MEMORY // (4 * BLOCK * max(1, train[:1].size))))
    with ThreadPoolExecutor(at_once) as pool:
        for top, where, turned in pool.map(search, blocks(train)):
            try:
                check()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            better = top > best
            best, nearest, mirrored = (np.where(better, *pair) for pair in ((top, best), (where, nearest), (turned, mirrored)))
    limit = threshold(best)
    pairs = tuple(
        NearPair(int(rows[i]), int(nearest[i]), round(float(best[i]), 2), bool(mirrored[i]))
        for i in np.flatnonzero(best >= limit)
    )
    return NearDuplicates(len(pairs), len(rows), round(limit, 2), sum(pair.mirrored for pair in pairs), pairs)


# ---------------------------------------------------------------------- in words


def per_class(labels: Array, classes: Sequence[str]) -> dict[str, int]:
    """Images of each class."""
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    return {name: int(n) for name, n in zip(classes, counts, strict=True)}


def describe_sizes(sizes: Array) -> Sizes:
    """The commonest sizes, and the range, of (N, 2) widths and heights."""
    if not len(sizes):
        return Sizes({}, None, None)
    common = Counter(f"{w}x{h}" for w, h in sizes.tolist()).most_common(20)
    area = sizes.prod(axis=1)
    smallest, largest = (tuple(sizes[row].tolist()) for row in (area.argmin(), area.argmax()))
    return Sizes(dict(common), smallest, largest)


def warnings(audit: Audit, num_train: int, image_size: int, channels: int) -> list[str]:
    """What a person should read, one sentence each."""
    left_out = counted(len(audit.quarantined), "file could not be used and is", "files could not be used and are")
    named = few((f"{left.file}: {left.reason}" for left in audit.quarantined), between="; ")
    sentences = [f"{left_out} left out ({named})"] if audit.quarantined else []
    sentences += _copies_in_words(audit)
    counts = audit.classes["train"]
    if num_train < 100:
        images = counted(num_train, "training image", "training images")
        sentences.append(f"only {images}: differences between methods will be noise")
    if counts and max(counts.values()) >= 10 * max(1, min(counts.values())):
        rare, large = (choose(counts, key=lambda k: counts[k]) for choose in (min, max))
        sentences.append(
            f"unbalanced: {counts[large]:,} images of {large!r} but {counts[rare]} of {rare!r}; see per-class scores"
        )
    sentences += [f"{counted(n, 'image', 'images')}: {text}" for text, n in sorted(audit.notes.items())]
    small = counted(audit.enlarged, "image was", "images were")
    sentences += [f"{small} smaller than data.image_size, {image_size} pixels, and enlarged"] if audit.enlarged else []
    colors = {"RGB", "RGBA", "P", "CMYK", "YCbCr", "3 bands"} & set(audit.modes)
    if channels == 1 and colors:
        sentences.append("color images are stored grey; data.channels: 3 keeps the color")
    if channels == 3 and audit.modes and not colors:
        sentences.append("grey images are stored as color; data.channels: 1 is three times smaller")
    return sentences


def _copies_in_words(audit: Audit) -> list[str]:
    leaks, near, sentences = audit.leaks, audit.near_duplicates, []
    if leaks.count:
        are, inflate = ("it is", "it inflates") if leaks.count == 1 else ("they are", "they inflate")
        fate = f"{are} dropped from training" if leaks.dropped else f"{inflate} every score (set data.drop_leaks: true)"
        sentences.append(f"{counted(leaks.count, 'training image is', 'training images are')} also in the test split; {fate}")
    if near.count:
        sentences.append(
            f"{near.count:,} of {near.checked:,} test images {'looks' if near.count == 1 else 'look'} like a training image"
            f" ({near.mirrored} of them mirrored); scores may be too good"
        )
    for split in ("train", "test"):
        of = f"of the {split} split"
        if audit.duplicates[split].extra:
            copies = counted(audit.duplicates[split].extra, f"image {of} is an exact copy", f"images {of} are exact copies")
            sentences.append(f"{copies} of others in it")
        if audit.constant[split].count:
            sentences.append(counted(audit.constant[split].count, f"image {of} is a", f"images {of} are a") + " single color")
    if audit.conflicts.count:
        pairs = counted(audit.conflicts.count, "pair of equal images has", "pairs of equal images have")
        first = " and ".join(f"{printable(name)} ({label})" for name, label in audit.conflicts.examples[0])
        sentences.append(f"{pairs} different labels: {first}{', ...' if audit.conflicts.count > 1 else ''}")
    return sentences


def in_three_lines(meta: Mapping[str, Any], audit: Audit) -> list[str]:
    """Classes, splits and findings of a prepared data set, for the terminal.

    Args:
        meta: ``meta.json``.
    """
    names = few(map(apart, meta["classes"]), NAMED)
    classes = f"{counted(len(meta['classes']), 'class', 'classes')} ({names})" if meta["classes"] else "no labels"
    aside = sum(audit.classes["holdout"].values())
    kept = [f"{aside:,} of them held out for choices"] if aside else []
    kept += [f"{audit.unlabelled:,} without a label"] if audit.unlabelled and meta["classes"] else []
    noun = "tile" if "tile" in meta else "image"
    train = counted(meta["num_train"], f"training {noun}", f"training {noun}s") + (f" ({', '.join(kept)})" if kept else "")
    lines = [
        f"{meta['name']}: {classes}",
        f"split: {train}, {counted(meta['num_test'], f'test {noun}', f'test {noun}s')}",
        f"audit: {'; '.join((*audit.warnings, *_others(audit.ignored))) or 'nothing odd'}",
    ]
    return [printable(line) for line in lines]


def _others(ignored: Ignored) -> list[str]:
    """What lies among the images and is not read."""
    names = few(map(apart, ignored.files), count=ignored.count)
    return [f"{counted(ignored.count, 'other file is', 'other files are')} not read ({names})"] if ignored.count else []
