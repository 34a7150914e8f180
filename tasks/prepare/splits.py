"""Which images become training, test and held-out ones: seeded, stratified, the same for the same names.

Which side of the test an image lies on follows from its own name, and not from what other images there are, as far as groups
and small classes allow that (decision 35): an encoder of last week is not to meet its training images in the test of this week.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ssl_core.hashing import GOLDEN, key, mix, order, shift
from tasks.prepare.layout import Item, shown
from tasks.runtime.dataset import Array
from tasks.runtime.errors import DataError
from tasks.runtime.params import DataConfig
from tasks.runtime.words import counted, few

TEST, MAX_TRAIN, MAX_TEST, HOLDOUT = 1, 2, 3, 4
"""Names of the random streams."""


def ranks(labels: Array, seed: int, purpose: int) -> Array:
    """(N,) the place of each row in a random order of its own class."""
    rows = order(len(labels), seed, purpose)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    places = np.empty(len(labels), np.int64)
    _, starts, counts = np.unique(labels[rows], return_index=True, return_counts=True)
    places[rows] = np.arange(len(labels)) - np.repeat(starts, counts)
    return places


def stratified(labels: Array, fraction: float, seed: int, purpose: int) -> Array:
    """(N,) bool: ``fraction`` of each class, at least one and not all where a class has two; never unlabelled rows."""
    if not fraction or not len(labels):
        return np.zeros(len(labels), bool)
    classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    quota = np.minimum(np.maximum(np.round(counts * fraction), 1), counts - 1)
    quota[classes < 0] = 0
    mask: Array = ranks(labels, seed, purpose) < quota[inverse]
    return mask


def places(names: Sequence[str], seed: int, purpose: int) -> Array:
    """(N,) float64 in [0, 1): a random place for each name, the same whatever other names there are.

    Accents count alike in both forms that file systems give them.
    """
    plain = (unicodedata.normalize("NFC", name).encode("utf-8", "surrogatepass") for name in names)
    digests = b"".join(hashlib.blake2b(name, digest_size=8).digest() for name in plain)
    found: Array = shift(mix(np.frombuffer(digests, "<i8") * GOLDEN + key(seed, purpose)), 11) / 2.0**53
    return found


def by_name(labels: Array, names: Sequence[str], fraction: float, seed: int, purpose: int) -> Array:
    """(N,) bool: about ``fraction`` of each class, at least one and not all where a class has two; never unlabelled rows.

    An image stays in or out when others come or go, but for the only one of its class that is in, or out.
    """
    if not fraction or not len(labels):
        return np.zeros(len(labels), bool)
    place = places(names, seed, purpose)
    mask: Array = (place < fraction) & (labels >= 0)
    rows = np.lexsort((place, labels))
    classes, starts, counts = np.unique(labels[rows], return_index=True, return_counts=True)
    known = classes >= 0
    mask[rows[starts[known]]] = True
    mask[rows[(starts + counts - 1)[known]]] = False  # last: a class of one image has it outside
    return mask


def by_groups(labels: Array, groups: Sequence[str], names: Sequence[str], fraction: float, seed: int, purpose: int) -> Array:
    """(N,) bool: about ``fraction`` of each class, by whole groups (empty: an image of its own).

    At least one group of a class and never all of it, where its groups can be parted so. Groups come in the order of their
    names' places; one is taken where that leaves the classes no farther from what is wanted of them, so most stay in or out
    when others come. A class that has none then, its groups being large, gets the smallest.
    """
    known = labels >= 0
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group or f"\0{names[row]}", []).append(row)
    rows_of = [np.array(rows) for rows in members.values()]
    total = np.bincount(labels[known], minlength=1).astype(float)
    found = [np.unique(own[own >= 0], return_counts=True) for own in (labels[rows] for rows in rows_of)]
    wanted, taken = np.maximum(total * fraction, 1) * (fraction > 0), np.zeros_like(total)
    mask = np.zeros(len(labels), bool)

    def counts(group: int) -> Array:
        """Images of each class; a table of all groups would be groups times classes."""
        own = np.zeros_like(total)
        own[found[group][0]] = found[group][1]
        return own

    def leaves_some(group: int) -> bool:
        classes, own = found[group]
        return bool((taken[classes] + own < total[classes]).all())

    def take(group: int) -> None:
        mask[rows_of[group]] = True
        taken[found[group][0]] += found[group][1]

    shuffled = np.argsort(places([member.removeprefix("\0") for member in members], seed, purpose), kind="stable").tolist()
    for group in shuffled:
        if np.abs(wanted - taken - counts(group)).sum() <= np.abs(wanted - taken).sum() and leaves_some(group):
            take(group)
    for label in np.flatnonzero(wanted * (total > 0) * (taken == 0)):
        others = [group for group in shuffled if label in found[group][0] and leaves_some(group)]
        if not taken[label] and others:
            take(min(others, key=lambda group: len(rows_of[group])))
    return mask & known


def at_most(labels: Array, count: int | None, seed: int, purpose: int) -> Array:
    """Sorted positions of at most ``count`` rows, evenly over the classes."""
    if count is None or count >= len(labels):
        return np.arange(len(labels))
    return np.sort(np.lexsort((labels, ranks(labels, seed, purpose)))[:count])


def group_numbers(items: Sequence[Item]) -> Array:
    """(N,) int64, equal for the images of one group; an image without a group is one of its own."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(item.group or f"\0{item.name}", len(known)) for item in items], np.int64)


def held_out(labels: Array, items: Sequence[Item], pixels: Array, fraction: float, seed: int) -> Array:
    """(N,) bool: which training images choose. Copies of one picture are all in, or all out, as groups are.

    Args:
        pixels: (N,) equal for equal pixels.
    """
    groups, names = [item.group for item in items], [item.name for item in items]
    _, firsts, which = np.unique(pixels, return_index=True, return_inverse=True)
    first = firsts[which]
    if any(groups):
        return by_groups(labels, _joined(groups, names, first), names, fraction, seed, HOLDOUT)
    mask: Array = stratified(labels, fraction, seed, HOLDOUT)[first] & (labels >= 0)
    known = labels[labels >= 0]
    left = np.bincount(known, minlength=1) - np.bincount(labels[mask], minlength=1 + known.max(initial=0))
    emptied = mask & (left[labels] <= 0)  # a class that is one picture has nothing to hold out, nor have that picture's copies
    return mask & ~np.isin(first, first[emptied])


def _joined(groups: Sequence[str], names: Sequence[str], first: Array) -> list[str]:
    """The groups, those that hold copies of one picture as one; ``first``: the first row with the same picture."""
    parent: dict[str, str] = {}

    def root(group: str) -> str:
        while (above := parent.setdefault(group, group)) != group:
            group = above
        return group

    own = [group or f"\0{name}" for group, name in zip(groups, names, strict=True)]
    for row, other in enumerate(first):
        parent[root(own[row])] = root(own[other])
    return [root(group) for group in own]


def _tested(labels: Array, items: Sequence[Item], fraction: float, seed: int) -> Array:
    """(N,) bool: which images of a source without a test split become one."""
    groups, names = [item.group for item in items], [item.name for item in items]
    if any(groups):
        return by_groups(labels, groups, names, fraction, seed, TEST)
    return by_name(labels, names, fraction, seed, TEST)


def without_single(
    items: Sequence[Item], classes: Sequence[str], config: DataConfig, warnings: list[str]
) -> tuple[list[Item], list[str]]:
    """The items and classes without those classes that have one image, which cannot be in both splits: it has no label then.

    A source with a test split of its own stays as it is.

    Raises:
        DataError: fewer than two classes remain.
    """
    counts = np.bincount([item.label for item in items if item.label >= 0], minlength=len(classes))
    single = {label for label, count in enumerate(counts) if count == 1}
    if not (classes and single and config.test_fraction) or any(item.split == "test" for item in items):
        return list(items), list(classes)
    named = few(repr(classes[label]) for label in sorted(single))
    what = f"{counted(len(single), 'class has', 'classes have')} one image, which cannot be in both splits"
    if len(classes) - len(single) < 2:
        raise DataError(f"{what}: {named}; add images")
    warnings.append(f"{what}: {named}; trained on without a label")
    kept = [label for label in range(len(classes)) if label not in single]
    number = {label: at for at, label in enumerate(kept)}
    return [replace(item, label=number.get(item.label, -1)) for item in items], [classes[label] for label in kept]


def split_rows(items: Sequence[Item], classes: Sequence[str], config: DataConfig, warnings: list[str]) -> dict[str, Array]:
    """Positions of the training and the test images among ``items``.

    Without a test split of its own a labelled source is split by ``test_fraction``; an unlabelled one trains on everything.
    Images without a label whose group is in the test split are in neither, and counted in ``warnings``.

    Raises:
        DataError: a class too small to be split, or fewer than two training images.
    """
    labels = np.array([item.label for item in items], np.int64)
    is_test = np.array([item.split == "test" for item in items], bool)
    if classes and not is_test.any():
        is_test = _tested(labels, items, config.test_fraction, config.seed)
        missing = set(range(len(classes))) - set(labels[is_test].tolist()) if config.test_fraction else set()
        if missing:
            members = {label: {item.group for item in items if item.label == label} for label in sorted(missing)}
            label = min(missing, key=lambda label: len(members[label]))
            groups = f"{counted(len(members[label]), 'group', 'groups')} ({few(sorted(map(shown, members[label])))})"
            raise DataError(
                f"class {classes[label]!r} is in {groups} and cannot be in both splits (tiles of one image are a group): add"
                " another group of it, or leave its labels empty, and it is trained on without them"
            )
    tested = {item.group for item, test in zip(items, is_test, strict=True) if test and item.group}
    beside = np.array([item.group in tested for item in items], bool) & (labels < 0)  # of a group that is tested: no training
    if left := int((beside & ~is_test).sum()):
        of = counted(left, "image without a label is of a group", "images without a label are of groups")
        warnings.append(f"{of} in the test split: not used")
    rows = {"train": np.flatnonzero(~is_test & ~beside), "test": np.flatnonzero(is_test)}
    limits = {"train": (config.max_train, MAX_TRAIN), "test": (config.max_test, MAX_TEST)}
    chosen = {name: r[at_most(labels[r], limits[name][0], config.seed, limits[name][1])] for name, r in rows.items()}
    if len(chosen["train"]) < 2:
        raise DataError(f"{len(chosen['train'])} training image(s); there must be at least 2")
    return chosen
