"""Labels that stand beside the images, in tables and shards: rows become items, and what is no class is refused."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

from tasks.prepare.class_folders import alike
from tasks.prepare.layout import Item
from tasks.prepare.split_names import SPLITS, role_of
from tasks.runtime.errors import DataError
from tasks.runtime.words import counted, few

SEVERAL = ("|", ";")
"""What parts several labels of one image, where they are written as one."""
LISTED = re.compile(r"[\[({](\s*|[-+.\seE0-9]*[0-9][-+.\seE0-9]*|(\s*(True|False))+\s*|.*[,'\"].*)[\])}]")
"""Such a list as JSON, Python or numpy write it; a word in brackets, ``[unknown]``, is a class."""
MAY_PART = re.compile(r"\s*[,，、/&+]\s*|\s+")
"""What may part them, or stand in the name of a class."""
OF_BLANKS = 0.05
"""Share of the labels from which on those that blanks part into other labels are taken for several in one."""
POSITION = re.compile(r"-?[0-9]{1,18}")
"""A class that is a number. Longer ones are names."""
WHOLE = re.compile(r"(-?[0-9]+)\.0*")
"""The same as a table of floats has it, because some images have no label."""
NO_LABEL = {"na", "n/a", "#n/a", "<na>", "nan", "null"}
"""What R, pandas and spreadsheets write where nothing is known, in small letters."""
NOT_KNOWN = "-1"
"""In place of a label that is a position among named classes."""
BROKEN = re.compile(r"[+-]?[0-9]*\.[0-9]+([eE][+-]?[0-9]+)?")
"""A number to predict. 1e3 and 0e1 are names: of hexadecimal numbers, for instance."""


@dataclass(frozen=True)
class Row:
    """What is said of one image."""

    name: str
    label: Any = None
    """A word or a whole number; None or an empty word is no label."""
    split: str = "train"
    group: str = ""
    """Images of one group (a patient, a place, a film) stay in one split; empty: of none."""
    among: Sequence[str] | None = None
    """Class names, where the label is a position among them."""


def class_of(row: Row, where: str) -> str | None:
    """The class's name, None for an image without label.

    Raises:
        DataError: a number to predict, or several labels.
    """
    label = row.label.strip() if isinstance(row.label, str) else row.label
    if is_nothing(label) or (not label and isinstance(label, str)):
        return None
    text = str(label)
    if isinstance(label, (list, tuple, dict, set)) or any(sign in text for sign in SEVERAL) or LISTED.fullmatch(text):
        raise DataError(
            f"{where}: {row.name!r} has several labels ({label!r}); one class an image can be scored, or leave them out"
        )
    if not isinstance(label, (str, Number)):
        raise DataError(f"{where}: {row.name!r} has the label {label}, a {type(label).__name__}; a class is a word or a number")
    if whole := WHOLE.fullmatch(text):  # else as it is written: 007 is another class than 7
        return whole[1]
    if BROKEN.fullmatch(text) or (not isinstance(label, (str, int)) and float(label) % 1 != 0):
        raise DataError(f"{where}: {row.name!r} has the label {label}: a number to predict, no class; leave the column out")
    return text if isinstance(label, (str, bool)) else str(int(label))


def _check_single(labels: Iterable[str | None], where: str) -> list[str]:
    """Refuse labels that are made of others: ``cat,dog`` where cat and dog are labels by themselves, or stand in further labels
    and one image has more of them than another. What to say where most labels hold a comma.

    Raises:
        DataError: there is such a label.
    """
    known = {label for label in labels if label is not None}
    listed = {label: re.split(r"\s*,\s*", label) for label in known if "," in label}
    used = Counter(part for parts in listed.values() for part in set(parts))
    lengths = {len(listed.get(label, ())) for label in known}
    made = {label for label in known if " " in label and known.issuperset(label.split())}
    names = made if len(made) < OF_BLANKS * len(known) else set()  # "maillot tank suit" among ImageNet's classes
    for label in sorted(known - names):
        parts = MAY_PART.split(label)
        alone = known.issuperset(parts) and len(parts) > 1 and (label in listed or not all(map(str.isdecimal, parts)))
        shared = len(lengths) > 1 and all(part in known or used[part] > 1 for part in listed.get(label, [""]))
        if alone or shared:
            parts = listed.get(label, parts)
            raise DataError(
                f"{where}: the label {label!r} is made of {few(map(repr, parts), between=' and ')}, which are, or are in, other"
                " labels too. If these are"
                " several labels of one image: one class an image can be scored, or leave the column out. If it is a class of"
                " its own: write it in one word"
            )
    if 2 * len(listed) <= len(known):
        return []
    return [
        f"{len(listed)} of {len(known)} labels hold a comma, as {min(listed)!r}: each is one class, for several of one image"
        " cannot be scored"
    ]


def group_of(value: Any) -> str:
    """The group that a table or a shard gives an image; none where the value is missing."""
    text = "" if is_nothing(value) or str(value).strip() == "None" else str(value).strip()
    text = unicodedata.normalize("NFC", text)  # lists of two systems may write one name in two ways
    return whole[1] if (whole := WHOLE.fullmatch(text)) else text


def is_nothing(value: Any) -> bool:
    """None, or what stands for it where numbers or words are."""
    if isinstance(value, str):
        return value.strip().lower() in NO_LABEL
    return value is None or (isinstance(value, float) and math.isnan(value))


def not_read(names: Iterable[str], where: str = "") -> str:
    """What is said beside images and not read, in a list or a shard: it may be what keeps images apart, under another name."""
    return f"not read: {few(sorted(names), 8)}; 'split' and 'group'{where} keep images apart"


def _read_as_nothing(rows: Iterable[Row]) -> list[str]:
    """That words for nothing were read so: one of them may be the name of a class."""
    said = Counter(row.label.strip() for row in rows if isinstance(row.label, str))
    return [
        f"{counted(count, 'image has', 'images have')} the label {word!r}, which is read as none; write it otherwise if it is a"
        " class"
        for word, count in said.items()
        if is_nothing(word)
    ]


def arranged(rows: Sequence[Row], where: str) -> tuple[list[Item], list[str], list[str]]:
    """Items, class names and warnings of the rows.

    Raises:
        DataError: an unknown split, a label that is no class, a name with two labels, or a group in two splits.
    """
    said = [class_of(row, where) for row in rows]
    commas = _check_single([label for row, label in zip(rows, said, strict=True) if row.among is None], where)
    labels = [_named(label, row.among, where) for row, label in zip(rows, said, strict=True)]
    splits = [_split(row, where) for row in rows]
    _check_trained(splits, where)
    use = {split: split for split in ("train", "test")} | {"unlabeled": "train"}
    if "test" not in splits:
        use["val"] = "test"
    read = {label for label, split in zip(labels, splits, strict=True) if split in use and split != "unlabeled"}
    order = {name: at for at, name in enumerate(dict.fromkeys(n for among in _namings(rows) for n in among))}
    known = {label for label in read if label is not None}
    classes = sorted(known, key=lambda label: (order.get(label, len(order)), *_in_order(label)))
    if len(classes) == 1 and not order:
        raise DataError(
            f"{where} has one class only ({classes[0]!r}), so there is nothing to tell apart; leave the labels out to pretrain"
            " without them"
        )
    numbers = {label: number for number, label in enumerate(classes)}
    items: dict[str, Item] = {}
    for row, label, split in zip(rows, labels, splits, strict=True):
        if split not in use:
            continue
        number = -1 if label is None or split == "unlabeled" else numbers[label]
        item = Item(row.name, "train" if use[split] == "test" and number < 0 and classes else use[split], number, row.group)
        if items.setdefault(row.name, item) != item:
            raise DataError(f"{where}: {row.name!r} is listed twice, with different labels, splits or groups")
    _check_groups(items.values(), classes, where)
    _check_splits(items.values(), classes, where)
    silent = (
        sum(use.get(split) == "test" and label is None for split, label in zip(splits, labels, strict=True)) if classes else 0
    )
    unused = sum(split not in use for split in splits)
    rest = counted(unused, "image of the split val is", "images of the split val are")
    notes = [f"{rest} not used"] if unused else []
    apart = sum(not row.group for row in rows)
    if 0 < apart < len(rows):
        notes.append(f"{counted(apart, 'image has', 'images have')} no group, and each is one of its own")
    if silent:
        what = counted(silent, "image of the test split has no label", "images of the test split have no labels")
        rest = ", unless another image of their group is tested" if any(row.group for row in rows) else ""
        notes.append(f"{what}: trained on without them{rest}")
    return list(items.values()), classes, [*notes, *alike(classes), *_read_as_nothing(rows), *_odd(labels, order), *commas]


def _namings(rows: Iterable[Row]) -> list[Sequence[str]]:
    """The lists of class names of the rows, each once."""
    return list({id(row.among): row.among for row in rows if row.among is not None}.values())


def _odd(labels: Sequence[str | None], named: Collection[str]) -> list[str]:
    """That what may stand for no label is a class: -1 among whole numbers, and None as Python writes it."""
    known = {label for label in labels if label is not None}
    odd = [NOT_KNOWN] if NOT_KNOWN in known and not named and all(map(POSITION.fullmatch, known)) else []
    odd += ["None"] if "None" in known - set(named) else []
    return [
        f"{counted(labels.count(word), 'image has', 'images have')} the label {word}: a class; leave it empty if it is none"
        for word in odd
    ]


def _in_order(label: str) -> tuple[int, int, str]:
    """Numbers in their order, before words."""
    return (0, int(label), label) if POSITION.fullmatch(label) else (1, 0, label)


def _named(label: str | None, names: Sequence[str] | None, where: str) -> str | None:
    """The class's name; the test split of ImageNet-1k has -1 where nothing is known."""
    if names is None or label is None or label == NOT_KNOWN:
        return label if names is None else None
    if not POSITION.fullmatch(label) or not 0 <= int(label) < len(names):
        raise DataError(f"{where}: the label {label} is none of its {len(names)} classes")
    return names[int(label)]


def _split(row: Row, where: str) -> str:
    if split := role_of(row.split):
        return split
    raise DataError(f"{where}: {row.name!r} has the split {row.split!r}; it must be one of {', '.join(SPLITS)}")


def _check_trained(splits: Sequence[str], where: str) -> None:
    """Refuse rows of which none is to be trained on."""
    if splits and not {"train", "unlabeled"} & set(splits):
        named = " and ".join(sorted(set(splits)))
        raise DataError(
            f"{where}: every image is of the split {named}, by a column or by the name of the list, the shard or their folder;"
            " there must be some to train on. If this is no split, give it another name"
        )


def _check_splits(items: Iterable[Item], classes: Sequence[str], where: str) -> None:
    """Refuse a class of the test split of which there is nothing to learn from."""
    found: dict[str, set[int]] = {"train": set(), "test": set()}
    for item in items:
        found[item.split].add(item.label)
    for number in sorted(found["test"] - found["train"] - {-1}):
        raise DataError(f"{where}: class {classes[number]!r} is in test and not in train; add some, or leave it out of test")


def _check_groups(items: Iterable[Item], classes: Sequence[str], where: str) -> None:
    splits: dict[str, str] = {}
    for item in items:  # those without a label follow the others of their group
        if item.group and (item.label >= 0 or not classes) and splits.setdefault(item.group, item.split) != item.split:
            raise DataError(
                f"{where}: images of the group {item.group!r} are in train and in test; a group must be in one of them"
            )
