"""What the names of the files in a folder or archive say: which are images, which split and which class they belong to.

``CLASS/file``, ``train/CLASS/file`` and ``test/CLASS/file`` are labelled; files without a class folder are not. ``val`` stands
for ``test`` where ``test`` has no labels. Beside labelled images those without a label join the training split, wherever they
lie (docs/decisions/0011). A top folder called ``train`` or ``test`` among other folders may be a class: ``_may_be_classes``.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tasks.prepare import class_folders
from tasks.prepare.class_folders import ClassFolder, Parts, Placed, listed
from tasks.prepare.names import by_count, is_image
from tasks.prepare.split_names import role_of, roles_of
from tasks.runtime.errors import DataError
from tasks.runtime.words import counted, few, folded


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its name in the source, its split, its label (-1: none) and its group (empty: none)."""

    name: str
    split: str
    label: int = -1
    group: str = ""


@dataclass
class Layout:
    """The images of a source, by name."""

    items: list[Item]
    classes: list[str]
    warnings: list[str] = field(default_factory=list)


def arrange(names: Iterable[str], folders: Iterable[str], where: str, rule: ClassFolder | None = None) -> Layout:
    """Sort image names into splits and classes.

    Args:
        names: relative names with ``/``.
        folders: every folder, so that an empty class is seen.
        where: the source, for messages.
        rule: which folder names the class; None: the first one inside the split, where no other may.

    Raises:
        DataError: no image, an empty class, one class only, or splits that do not fit each other.
    """
    names = sorted(names)
    if not names:
        raise DataError(f"{where} holds no images (JPEG, PNG, BMP, GIF, WebP, TIFF or .npy); check data.path")
    around = folders_around(names)
    inside: dict[str, list[Parts]] = {}
    for top, *rest in (PurePosixPath(name.removeprefix(around)).parts for name in names):
        if rest:
            inside.setdefault(top, []).append(tuple(rest))
    doubled = {top for top, paths in inside.items() if all(len(path) > 2 and path[0] == top for path in paths)}
    inside |= {top: [path[1:] for path in inside[top]] for top in doubled}

    def parts(name: str) -> Parts:
        top, *rest = PurePosixPath(name.removeprefix(around)).parts
        return (top, *rest[1 if top in doubled else 0 :])

    _check_order(inside, where, around)
    use, remarks = _roles(inside, where, rule)
    placed, unused = [], Counter[str]()
    for name in names:
        split, path = _split_of(parts(name), use)
        if split:
            placed.append((split, name, path))
        else:
            unused[parts(name)[0]] += 1
    notes = class_folders.check(placed, where, rule, around)
    placed = class_folders.by_rule(placed, rule)
    layout = _label(placed, where)
    layout.warnings += notes if layout.classes else []
    if layout.classes:
        within = [parts(f) for f in folders if is_image(f) and f.startswith(around) and rule != "deepest"]
        _check_folders(placed, [_split_of(path, use) for path in within if len(path) > 1 or path[0] not in use], where)
    if around:
        remarks.append(f"all images lie in {around.rstrip('/')}: its folders are taken for those of {where}")
    if unused:
        used = " and ".join(sorted(use))
        number = unused.total()
        rest = counted(number, f"image outside the folders {used} is", f"images outside the folders {used} are")
        remarks.append(f"{rest} not used: {by_count(unused)}")
    layout.warnings[:0] = remarks
    return layout


def folders_around(names: Sequence[str]) -> str:
    """The folders around everything, as ``dataset/images/``, where there are further folders inside and none is a split."""
    around: list[str] = []
    parts = [PurePosixPath(name).parts for name in names]
    while len({path[0] for path in parts}) == 1 and min(map(len, parts)) > 2 and not role_of(parts[0][0]):
        around.append(parts[0][0])
        parts = [path[1:] for path in parts]
    return "".join(f"{folder}/" for folder in around)


def _check_order(inside: Mapping[str, Sequence[Parts]], where: str, around: str) -> None:
    """Refuse splits below other folders (``CLASS/train``, ``data/train`` beside something) and ``val/CLASS`` beside CLASS."""
    found = {
        top: set(roles_of({path[0] for path in paths if len(path) > 1}, f"{where}/{around}{top}").values())
        for top, paths in inside.items()
        if not role_of(top)
    }
    holders = [top for top, within in found.items() if "train" in within and within & {"test", "val"}]
    parts = [top for top, within in found.items() if within & {"train", "test", "val"}]
    if len(holders) > 1 or (holders and len(parts) > 1 and "train" not in map(role_of, inside)):
        which = "train and test" if len(parts) == len(holders) else "train, test or both"
        raise DataError(f"{where}: {listed(parts)} hold {which}; put the split above the class: train/CLASS, test/CLASS")
    if holders and "train" not in map(role_of, inside):
        others = listed(top for top in inside if top not in holders)
        place = f"{where}/{around}{holders[0]}"
        raise DataError(f"{where}: {holders[0]!r} holds train and test, beside {others}; set data.path to {place}")

    tops = {top for top in inside if not role_of(top)}
    for top in set(inside) - tops:
        same = tops & {path[0] for path in inside[top] if len(path) > 1}
        if same and "train" not in map(role_of, inside):
            raise DataError(
                f"{where}: {listed(same)} are there twice, beside {top!r} and in it; if {top!r} is a split, move those beside"
                f" it into train; if it is a class, move its images up"
            )


def _roles(inside: Mapping[str, Sequence[Parts]], where: str, rule: ClassFolder | None) -> tuple[dict[str, str], list[str]]:
    """What the top folders stand for, ``train``, ``test`` or ``unlabeled``, and what to say about it.

    Where one folder stands for ``train``, those without a role are not used. Where none does, those are classes.

    Args:
        inside: top folder -> path of each image in it.
        rule: which folder names the class.

    Raises:
        DataError: a test folder without training images, or splits that may be classes.
    """
    known = roles_of(inside, where)
    if not {"train", "test"} & set(known.values()) or _may_be_classes(inside, known, where):
        alike = [top for top, role in known.items() if role != "unlabeled"] if len(known) < len(inside) else []
        said = [
            f"{by_count({top: len(inside[top])})} is taken for a class; if it is a split, put the classes into train, beside it"
            for top in alike
        ]
        return {top: role for top, role in known.items() if role == "unlabeled"}, said
    if "train" not in known.values():
        raise DataError(f"{where} has a test but no train folder; name them train and test, or put the classes side by side")
    paths: dict[str, list[Parts]] = {role: [] for role in ("train", "test", "val", "unlabeled")}
    for top, role in known.items():
        paths[role] += inside[top]
    classes = {role: class_folders.classes_of(found, rule) for role, found in paths.items()}
    # One folder that is no class of train, as ``test/unknown``, says nothing about its images.
    labelled = [role for role in ("test", "val") if len(classes[role]) > 1 or classes[role] & classes["train"]]
    if rule is None:
        class_folders.check_shared(
            {role: paths[role] for role in ("test", "val") if not classes[role] & classes["train"]}, paths["train"], where
        )
    if not classes["train"]:
        labelled = ["test" if "test" in known.values() else "val"]
        known = {top: role for top, role in known.items() if role != "val" or labelled == ["val"]}
    use, remarks = {}, []
    for top, role in known.items():
        if role in ("train", "unlabeled"):
            use[top] = role
        elif role in labelled[:1]:
            use[top] = "test"
        elif role not in labelled:
            use[top] = "unlabeled"
            source = labelled[0] if labelled else "data.test_fraction of each class in train"
            lacking = counted(len(inside[top]), f"image in {top} has no label", f"images in {top} have no labels")
            remarks.append(f"{lacking}: trained on without them; scores use {source}")
    if taken := [f"{top!r} for {role}" for top, role in use.items() if not role_of(top)]:
        remarks.append(f"folders are taken for splits by a part of their names: {', '.join(taken)}")
    return use, remarks


def _may_be_classes(inside: Mapping[str, Sequence[Parts]], known: Mapping[str, str], where: str) -> bool:
    """Whether folders called train or test are classes, because they lie among other folders and look the same.

    Raises:
        DataError: they may as well be splits.
    """
    splits = {top for top, role in known.items() if role != "unlabeled"}
    others = set(inside) - set(known)
    nested = {top for top in inside if any(len(path) > 1 for path in inside[top])}
    if not others:
        return False
    if splits & nested and (len(splits) > 1 or others - nested):
        return False  # splits with class folders
    if len(splits) == 1 and len(others) > 1 and not nested & (splits | others):
        return True
    used, unused = (by_count({top: len(inside[top]) for top in tops}) for tops in (splits, others))
    raise DataError(
        f"{where} can be read in two ways. Either only {used} is to be used: then move {unused} out of it. Or each of these"
        f" folders is a class: then give {', '.join(map(repr, sorted(splits)))} another name"
    )


def _split_of(parts: Parts, use: Mapping[str, str]) -> tuple[str, Parts]:
    """(split, path inside the split); an empty split where splits are folders and this path is in none of them."""
    top, *rest = parts
    if top not in use or not rest:
        return ("" if "train" in use.values() else "train"), parts
    if role_of(rest[0]) == "unlabeled":  # train/unlabeled/file
        return "unlabeled", tuple(rest[1:])
    return use[top], tuple(rest)


def _label(placed: Sequence[Placed], where: str) -> Layout:
    """Label each image by the first folder of its path inside the split."""
    classes = _class_names(placed)
    if not classes["train"]:
        if classes["test"]:
            raise DataError(
                f"{where}: test has class folders but train has none, so nothing is learned of its classes; put labelled images"
                " into train/CLASS, or train on the others alone and make these a task (run.tasks)"
            )
        return Layout([Item(name, "test" if split == "test" else "train") for split, name, _ in placed], [])
    names = sorted(classes["train"] | classes["test"])
    labels = {name: i for i, name in enumerate(names)}
    layout = Layout([], names, [*class_folders.alike(names), *class_folders.of_one_set(names)])
    loose = Counter[str]()
    for split, name, path in placed:
        label = labels[path[0]] if len(path) > 1 and split != "unlabeled" else -1
        loose[split] += label < 0
        layout.items.append(Item(name, "test" if split == "test" and label >= 0 else "train", label))
    for split, title in (("train", "training"), ("test", "test")):
        if loose[split]:
            where = counted(loose[split], f"{title} image lies", f"{title} images lie")
            layout.warnings.append(f"{where} in no class folder: trained on without a label")
    return layout


def _class_names(placed: Iterable[Placed]) -> dict[str, set[str]]:
    classes: dict[str, set[str]] = {"train": set(), "test": set()}
    for split, _, path in placed:
        if split in classes and len(path) > 1:
            classes[split].add(path[0])
    return classes


def _check_folders(placed: Sequence[Placed], folders: Iterable[tuple[str, tuple[str, ...]]], where: str) -> None:
    """Refuse one class only, a class in one split only, and a class folder without images."""
    classes = _class_names(placed)
    if len(classes["train"]) == 1:
        (only,) = classes["train"]
        lower = {path[1] for split, _, path in placed if split in classes and len(path) > 2}
        if len(lower) > 1:
            raise DataError(
                f"{where} has one class only ({only!r}); if {listed(lower)} in it are the classes, put them one level up, or"
                " set data.class_folder: deepest"
            )
        raise DataError(
            f"{where} has one class only ({only!r}), so there is nothing to tell apart; add classes, or set"
            " data.class_folder: none to take the images without labels"
        )
    tops = [(split, path[0]) for split, path in sorted(folders) if split in classes and len(path) == 1]
    if empty := [f"{name!r} in {split}" for split, name in tops if name not in classes[split]]:
        what = counted(len(empty), "class folder holds", "class folders hold")
        raise DataError(f"{where}: {what} no images: {few(empty)}; fill what is empty, or remove it")
    if any(split == "test" for split, _, _ in placed):
        if not classes["train"] & classes["test"]:
            raise DataError(
                f"{where}: no folder of test ({listed(classes['test'])}) is a class of train; rename them, or put the images"
                " of test directly into it to have them without labels"
            )
        for name in sorted(classes["train"] ^ classes["test"]):
            side = "test" if name in classes["train"] else "train"
            same = [f"{other!r} there is spelled otherwise; " for other in classes[side] if folded(other) == folded(name)]
            raise DataError(
                f"{where}: class {name!r} has no images in {side}; {''.join(same)}add some, or remove the class from both"
                " splits"
            )


def shown(name: str) -> str:
    """A file or class name as text: bytes that are not UTF-8 are written as escapes."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character, as a damaged JSON may hold
        return name.encode("utf-8", "backslashreplace").decode("utf-8")


def one_per_line(names: Sequence[str]) -> str:
    """Names as JSON strings, one a line; any bytes a file system allows come back with ``os.fsencode(json.loads(line))``."""
    return "".join(json.dumps(name) + "\n" for name in names)
