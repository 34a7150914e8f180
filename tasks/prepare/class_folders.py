"""Which folder of an image's path names its class, ``data.class_folder``, and what to say where another one may."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from tasks.prepare.split_names import role_of
from tasks.runtime.errors import DataError
from tasks.runtime.words import counted, few, folded

ClassFolder = Literal["top", "deepest", "none"]
"""The first folder inside the split, the one that the image lies in, or no folder at all."""
Parts = tuple[str, ...]
Placed = tuple[str, str, Parts]
"""(split, name, path inside the split)"""
PARTS = {"image", "images", "img", "imgs", "mask", "masks", "label", "labels", "annotation", "annotations", "depth", "edges"}
PARTS |= {"jpegimages", "segmentationclass", "segmentationobject", "segmentation", "segmentations", "gt", "groundtruth"}
PARTS |= {"ground_truth", "target", "targets", "lr", "hr"}
PAIR = {"a", "b"}
"""Two pictures of one place, beside one of ``PARTS``."""
NO_CLASS = re.compile(
    r"(fold|split|part|batch|chunk|shard|set|images?|imgs?|masks?)[ _-]?[0-9]+"  # of one set
    r"|(19|20)[0-9]{2}([-_. ]?[0-9]{2}){0,2}"  # a year, a month, a day
    r"|1[0-9]{2}(canon|nikon|nd[0-9]{3}|apple|msdcf|olymp|_fuji|_pana|ricoh|pentx|leica|andro|gopro|casio|_dji.)"  # a camera's
)
"""Names in small letters that folders have for another reason than the class of what is in them."""


def class_path(path: Parts, rule: ClassFolder | None) -> Parts:
    """A path inside a split from the folder on that names the class; the file alone where none does."""
    first = {"deepest": -2, "none": -1}.get(rule or "top", 0)
    return path[first:] if len(path) > 1 else path


def classes_of(paths: Iterable[Parts], rule: ClassFolder | None) -> set[str]:
    """The classes of the images at these paths."""
    return {path[0] for path in (class_path(path, rule) for path in paths) if len(path) > 1}


def by_rule(placed: Sequence[Placed], rule: ClassFolder | None) -> list[Placed]:
    """The same with paths whose first folder is the class; of a class ``unlabeled`` far down nothing is known."""
    found = [(split, name, class_path(path, rule)) for split, name, path in placed]
    if rule != "deepest":
        return found
    return [("unlabeled" if role_of(path[0]) == "unlabeled" else split, name, path) for split, name, path in found]


def check(placed: Iterable[Placed], where: str, rule: ClassFolder | None = None, around: str = "") -> list[str]:
    """What to say of folders inside those of the classes.

    Args:
        rule: what somebody said of the folders that name the classes.
        around: the folders around everything, which may be a year.

    Raises:
        DataError: nobody said it, and it may as well be those inside, or none.
    """
    if rule in ("deepest", "none"):
        return []
    inside: dict[str, set[str]] = {}
    by_split: dict[str, set[str]] = {}
    loose = set()
    for split, _, path in placed:
        if split != "unlabeled" and len(path) > 1:
            inside.setdefault(path[0], set()).update(path[1:-1][:1])
            by_split.setdefault(split, set()).add(path[-2])
            loose |= {path[0]} if len(path) == 2 else set()
    # Where train and test have none of them in common they are films or places, and no classes.
    deepest = set.union(*by_split.values()) if by_split and set.intersection(*by_split.values()) else set()
    lower = {f"{name}/{folder}" for name, folders in inside.items() for folder in folders}
    kinds = of_one_set(sorted(set().union(*inside.values())), "folders in the classes")
    tops = of_one_set(sorted(inside), "folders")
    if rule == "top":
        return kinds
    several = deepest and not loose and all(len(folders) > 1 for folders in inside.values())
    year = re.search(r"(19|20)[0-9]{2}/$", around) and all(re.fullmatch("[0-9]{2}", name) for name in inside)
    other = len(inside) > 1 and (year or all(NO_CLASS.fullmatch(name.lower()) for name in inside))
    if len(inside) > 1 and (several or (other and lower)):
        raise DataError(f"{where} {_readings(set(inside), deepest)}{''.join(f'; {text}' for text in (*kinds, *tops))}")
    _check_twice(inside, where)
    if other:
        return [f"the folders {listed(inside)} are taken for classes; if they are none, set data.class_folder: none"]
    if not lower or len(set.union(*inside.values())) == 1:
        return []
    what = counted(len(lower), "folder inside the classes is", "folders inside the classes are")
    hint = " (data.class_folder: deepest takes those for the classes)" if deepest else ""
    return [f"{what} not told apart: {listed(lower)}{hint}"]


def _check_twice(inside: Mapping[str, set[str]], where: str) -> None:
    """Ask about a folder that holds the other classes once more: ``augmented/cat`` and ``augmented/dog`` beside both."""
    holders = {top: again for top, folders in inside.items() if (again := folders & (set(inside) - {top}))}
    for top, again in sorted(holders.items()):
        if len(again) > 1 and not again & set(holders):
            raise DataError(
                f"{where}: {listed(again)} are there twice, beside {top!r} and in it. If {top!r} is no class, move it away, or"
                " set data.class_folder: deepest to have its images too; if it is one, set data.class_folder: top"
            )


def check_shared(others: Mapping[str, Sequence[Parts]], train: Sequence[Parts], where: str) -> None:
    """Ask where splits have no class in common by their first folders, and have by those that the images lie in.

    Raises:
        DataError: it is so.
    """
    deepest = classes_of(train, "deepest")
    for role, paths in others.items():
        if len(deepest) > 1 and (shared := {c for c in classes_of(paths, "deepest") & deepest if c.lower() not in PARTS}):
            tops = listed(classes_of(paths, "top"))
            raise DataError(
                f"{where}: train and {role} have no class in common ({tops} in {role}), but folders inside them: "
                f"{listed(shared)}. Set data.class_folder to deepest if those are the classes, to top if {role} has no labels"
            )


def _readings(tops: set[str], deepest: set[str]) -> str:
    named = {"top": tops} | ({"deepest": deepest} if len(deepest) > 1 and deepest != tops else {})
    ways = [f"{rule} ({len(classes)} classes: {listed(classes)})" for rule, classes in named.items()]
    return (
        f"can be read in several ways: set data.class_folder to {' or to '.join(ways)}, by the folders that name the classes,"
        " or to none, where no folder does"
    )


def of_one_set(names: Sequence[str], what: str = "classes") -> list[str]:
    """A warning where the classes, or folders in them, are called what images and their masks are kept in."""
    found = [name for name in names if name.lower() in PARTS]
    pair = [name for name in names if name.lower() in PAIR]
    found += pair if found and len(pair) == 2 else []
    if len(found) < 2:
        return []
    return [f"the {what} {listed(found)} look like parts of one set of images: keep those of the images alone in data.path"]


def alike(classes: Sequence[str]) -> list[str]:
    """Warnings for class names that look the same: another case, other blanks, or another Unicode form."""
    seen: dict[str, str] = {}
    warnings = []
    for name in classes:
        if folded(name) in seen:
            warnings.append(f"the classes {seen[folded(name)]!r} and {name!r} differ only in case, blanks or Unicode form")
        seen.setdefault(folded(name), name)
    return warnings


def listed(names: Iterable[str]) -> str:
    """``'a', 'b', 'c' and 2 more``"""
    return few(map(repr, sorted(names)))
