"""``source: webdataset``: tar shards, in which files of one name belong together: ``1.jpg`` with ``1.cls`` or ``1.json``.

``.cls`` holds the class, a word or a number; of ``.json`` the key ``label`` counts, and ``split`` and ``group`` if they are
there. A shard with the word ``test`` or ``val`` in its name, or in a folder called so, is that split.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.prepare.archives import Archive
from tasks.prepare.labels import Row, arranged, class_of, group_of, not_read
from tasks.prepare.names import OWN, PICTURES, is_hidden, left_out, to_read
from tasks.prepare.source import OWN_LICENSE, Content, Source
from tasks.prepare.split_names import role_of, role_within, roles_of
from tasks.runtime.errors import DataError
from tasks.runtime.image_folders import images_path
from tasks.runtime.params import DataConfig
from tasks.runtime.words import counted, few

ABOUT = (".cls", ".json")
REMEDY = "write the shard anew without it"
PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")
JUDGED = ("label", "group")
"""Of what stands in them: two of one sample must not differ."""
READ = (*JUDGED, "split")
"""``split`` where the name of the shard says none."""


def open_source(config: DataConfig) -> Source:
    """The shards in the folder ``data.path``, or the one that it names.

    Raises:
        UsageError: nothing is there.
        DataError: no shard, or one that is rejected.
    """
    path = images_path(config.path)
    roles = roles_of([p.name for p in path.iterdir() if p.is_dir()], str(path)) if path.is_dir() else {}
    shards, beside = _shards(path, roles) if path.is_dir() else ([path], [])
    if not shards:
        unread = f"; not read: {few(map(repr, beside))}" if beside else ""
        raise DataError(f"{path} holds no shards (.tar){unread}; for pictures in folders use data.source: folder")
    source = ShardSource({p.relative_to(path).as_posix() if p != path else p.name: p for p in shards}, path, roles)
    if beside:
        what = counted(len(beside), "folder or packed shard", "folders or packed shards")
        source.warnings.append(f"{what} beside the shards not read: {few(map(repr, beside))}")
    return source


def _shards(path: Path, roles: Collection[str]) -> tuple[list[Path], list[str]]:
    """The shards at the top of a folder and in those of splits; without any, in all. And the names of what is not read."""
    names = {p: p.relative_to(path).as_posix() for p in sorted(path.rglob("*"))}
    found = [p for p, name in names.items() if not is_hidden(name)]
    tars = [p for p in found if p.suffix.lower() == ".tar" and p.is_file()]
    near = [p for p in tars if p.parent == path or names[p].partition("/")[0] in roles]
    shards = near or tars
    odd = [p for p in found if p.is_dir() or p.suffix.lower() in (".tar", *PACKED)]
    unread = [p for p in odd if p not in shards and not any(p in shard.parents for shard in shards)]
    told = [names[p] for p in unread if p.parent == path or p.parent not in unread]
    hidden = [n for p, n in names.items() if is_hidden(n) and p.suffix.lower() == ".tar" and not p.name.startswith("._")]
    return shards, told + [name for name in hidden if not OWN & set(PurePosixPath(name).parts)]


class ShardSource(Source):
    """Images in tar shards.

    Args:
        shards: the files by name.
        path: the folder they lie in, or the only one.
        roles: what folders at its top are, ``train2017`` for instance.
    """

    def __init__(self, shards: Mapping[str, Path], path: Path, roles: Mapping[str, str] | None = None):
        super().__init__(path.resolve().name.partition(".")[0], path.name, OWN_LICENSE)
        self._shards = {name: Archive(shard, REMEDY) for name, shard in shards.items()}
        self._roles = roles or {}
        self._places: dict[str, tuple[str, str]] = {}
        self._without: list[str] = []
        self._others: list[str] = []
        self._unread: set[str] = set()
        self._second: list[str] = []
        by_shard = {shard: list(self._rows(shard)) for shard in self._shards}
        rows = [row for found in by_shard.values() for row in found]
        if not rows:
            raise DataError(f"{path}: the shards hold no images")
        self.items, self.classes, warnings = arranged(rows, str(path))
        self.warnings += [*warnings, *left_out(self._others, [row.name for row in rows])]
        if empty := [shard for shard, found in by_shard.items() if not found]:
            self.warnings.append(f"{counted(len(empty), 'shard holds', 'shards hold')} no images: {few(map(repr, empty))}")
        if self._without:
            what = counted(len(self._without), "label", "labels")
            self.warnings.append(f"{what} in the shards without a picture: {few(map(repr, self._without))}")
        if not self.classes and self._unread:
            other = few(sorted(self._unread))
            self.warnings.append(f"no labels: they are read from .cls and from 'label' in .json, and not from {other}")
        elif self._unread:
            self.warnings.append(not_read(self._unread, " in .json"))
        if self._second:
            what = counted(len(self._second), "file", "files")
            self.warnings.append(f"{what} beside the picture of a sample not used: {few(map(repr, self._second))}")

    def _rows(self, shard: str) -> Iterator[Row]:
        archive = self._shards[shard]
        images, others = to_read(name for name in archive.members if not _is_about(name))
        samples: dict[str, list[str]] = {}
        for name in sorted(images, key=_plainest):
            samples.setdefault(_key(name), []).append(name)
        said = [name for name in archive.members if _is_about(name)]
        about = [name for name in said if _key(name) in samples]
        self._without += [f"{shard}/{name}" for name in said if _key(name) not in samples and name.lower().endswith(".cls")]
        facts: dict[str, dict[str, Any]] = {}
        for name, content in archive.read(about):
            known = facts.setdefault(_key(name), {})
            found = _facts(f"{shard}/{name}", content)
            self._unread |= {repr(fact) for fact in found if fact not in READ}
            for fact, value in found.items():
                if fact == "split":
                    known.setdefault(fact, value)
                if fact not in JUDGED or not (said := _read(fact, value, name, shard)):
                    continue
                if _read(fact, known.setdefault(fact, value), name, shard) != said:
                    raise DataError(
                        f"{shard}: {_key(name)!r} has two {fact}s, {known[fact]!r} and {value!r} of {name}; what belongs"
                        " together has one name up to its first point, so no other point may stand in it"
                    )
        around = (self._roles.get(folder) or role_of(folder) for folder in reversed(PurePosixPath(shard).parent.parts))
        split = role_within(PurePosixPath(shard).stem) or next(filter(None, around), None)
        self._others += [f"{shard}/{name}" for name in others]
        self.ignored += [f"{shard}/{name}" for name in others]
        self._unread |= {PurePosixPath(name).suffix for name in others if _key(name) in samples}
        self._unread |= {f"folders as {str(PurePosixPath(key).parent)!r}" for key in [*samples][:1] if "/" in key}
        for key, (first, *more) in samples.items():
            self._second += [f"{shard}/{name}" for name in more]
            known = facts.get(key, {})
            own = role_of(str(known.get("split", "")))
            self._unread |= {"'split'"} if "split" in known and own != (split or own or "") else set()
            self._places[f"{shard}/{first}"] = shard, first
            yield Row(f"{shard}/{first}", known.get("label"), split or own or "train", group_of(known.get("group")))

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Content]]:
        """Read the items at ``rows``."""
        by_shard: dict[str, dict[str, int]] = {}
        for row in rows:
            shard, name = self._places[self.items[row].name]
            by_shard.setdefault(shard, {})[name] = row
        for shard, names in by_shard.items():
            for name, content in self._shards[shard].read(list(names)):
                yield names[name], content


def _key(name: str) -> str:
    """What the files of one sample share: the name up to the first point after the folders."""
    path = PurePosixPath(name)
    return str(path.parent / path.name.partition(".")[0])


def _plainest(name: str) -> tuple[bool, int, str]:
    """Before others of its sample: what is called like a picture, ``1.jpg`` before ``1.seg.png`` and ``1.bin``."""
    path = PurePosixPath(name.lower())
    return path.suffix not in PICTURES, path.name.count("."), name


def _is_about(name: str) -> bool:
    """Whether a file says something of its sample, and is no other system's leftover (``._1.cls``)."""
    return name.lower().endswith(ABOUT) and not is_hidden(name)


def _read(fact: str, value: object, name: str, shard: str) -> str | None:
    """What is understood of a value: 3, "3" and 3.0 are one label."""
    return class_of(Row(name, value), shard) if fact == "label" else group_of(value)


def _facts(name: str, content: object) -> dict[str, Any]:
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else ""
        found = {"label": text.strip()} if name.lower().endswith(".cls") else json.loads(text)
        return found if isinstance(found, dict) else {"lists in .json": found}
    except (ValueError, RecursionError):  # no text, no JSON
        pass
    raise DataError(f"{name} is no text, or no JSON")
