"""Where the user's images are: ``data.path``, that of a task, and the folders that ``data.more`` reads with them."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ssl_core.config import ConfigError
from tasks.runtime.errors import UsageError

if TYPE_CHECKING:
    from tasks.runtime.params import DataConfig


def images_path(given: str, root: Path = Path(), key: str = "data.path") -> Path:
    """``data.path`` below ``root``, or that of a task; ``key`` is its name.

    Raises:
        UsageError: nothing is there.
    """
    path = root / given
    if not given.strip():
        raise UsageError(f"{key} is empty; give the path of your images (relative to the project's root)")
    if given.startswith("~") and not path.exists():
        raise UsageError(f"{key}: {given} has a ~, which DVC does not know; write {Path(given).expanduser()}")
    if not path.exists():
        raise UsageError(f"{key}: {given} does not exist; give the path of your images (relative to the project's root)")
    return path


def more_paths(config: "DataConfig", root: Path = Path()) -> dict[str, Path]:
    """The folders of ``data.more`` by name.

    Raises:
        UsageError: one is no folder, or lies in another one: its images would be read twice.
    """
    found = {name: images_path(given, root, f"data.more.{name}") for name, given in config.more.items()}
    known = {"data.path": root / config.path}
    for name, path in found.items():
        if not path.is_dir():
            raise UsageError(f"data.more.{name}: {path} is not a folder")
        for other, before in known.items():
            one, two = path.resolve(), before.resolve()
            if one.is_relative_to(two) or two.is_relative_to(one):
                raise UsageError(f"data.more.{name}: {path} and {other}, {before}, hold the same images; name each folder once")
        known[f"data.more.{name}"] = path
    return found


def all_paths(config: "DataConfig") -> list[Path]:
    """The folder or file at ``data.path`` and the folders of ``data.more``.

    Raises:
        UsageError: as ``images_path`` and ``more_paths``.
    """
    return [images_path(config.path), *more_paths(config).values()]


def check_more(config: "DataConfig", where: str) -> None:
    """Refuse further folders where there can be none, or whose names cannot be those of stages and files.

    Raises:
        ConfigError: something is not so.
    """
    if config.more and where != "data":
        raise ConfigError(f"{where}.more: a task is one folder; leave it out")
    if config.more and config.source != "folder":
        raise ConfigError(f"data.more is of source: folder; source: {config.source} is one path")
    for name in config.more:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_]{0,39}", name):
            raise ConfigError(f"data.more: {name!r} is no name; give small letters, digits and underscores")
