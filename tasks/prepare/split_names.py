"""The words by which folders, shards and tables are splits: alone (``val``), or within a name (``train2017``, ``seg_test``)."""

import re
from collections.abc import Iterable

from tasks.runtime.errors import DataError
from tasks.runtime.words import few

SPLITS = {
    "train": "train",
    "training": "train",
    "trainset": "train",
    "test": "test",
    "testing": "test",
    "testset": "test",
    "val": "val",
    "valset": "val",
    "valid": "val",
    "validation": "val",
    "eval": "val",
    "evaluation": "val",
    "dev": "val",
    "unlabeled": "unlabeled",
    "unlabelled": "unlabeled",
}
"""What each word stands for."""


def role_of(name: str) -> str | None:
    """What a name that is such a word stands for."""
    return SPLITS.get(name.strip().lower())


def role_within(name: str) -> str | None:
    """What the words of a longer name stand for, as of ``imagenet1k-train-0000``; None where none of them is a split.

    Raises:
        DataError: they are of two splits.
    """
    found = {SPLITS[word] for word in words_of(name) if word in SPLITS}
    if len(found) > 1:
        raise DataError(f"{name!r} names two splits, {' and '.join(sorted(found))}; leave one of them in the name")
    return next(iter(found), None)


def roles_of(folders: Iterable[str], where: str) -> dict[str, str]:
    """The folders that stand for splits, with what they stand for.

    They are called by these words alone, or by one of them and the same besides: ``train2017`` and ``val2017``.

    Raises:
        DataError: there are several such sets, as ``trainA``, ``testA``, ``trainB`` and ``testB``.
    """
    folders = list(folders)
    alone = {name: found for name in folders if (found := role_of(name))}
    if {"train", "test"} & set(alone.values()):
        return alone
    sets: dict[str, dict[str, str]] = {}
    for name in folders:
        words = [word for word in words_of(name) if word in SPLITS]
        if len(words) == 1 and name not in alone:
            rest = re.sub(rf"(?<![^\W\d_]){words[0]}(?![^\W\d_])", "", _spaced(name), count=1)
            sets.setdefault(rest.strip(), {})[name] = SPLITS[words[0]]
    found = [one for one in sets.values() if "train" in one.values() and {"test", "val"} & set(one.values())]
    trains = [one for one in sets.values() if "train" in one.values()]
    several = bool(found) and (len(trains) > 1 or any(len(set(one.values())) < len(one) for one in found))
    named = {role for one in sets.values() for role in one.values()}
    all_named = sum(map(len, sets.values())) == len(folders) and "train" in named and len(named) > 1
    if several or (all_named and not found):  # also train80 and test20
        names = few([repr(name) for one in sets.values() for name in one])
        raise DataError(
            f"{where} can be read in two ways. Either {names} are splits: then put all training images into train/CLASS and all"
            " test images into test/CLASS. Or each of these folders is a class: then give them other names"
        )
    return alone | (found[0] if found else {})


def _spaced(name: str) -> str:
    """In lower case, and apart what a capital letter begins: ``trainA`` as ``train a``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def words_of(name: str) -> list[str]:
    """The words of a name, in small letters."""
    return re.findall(r"[^\W\d_]+", _spaced(name))
