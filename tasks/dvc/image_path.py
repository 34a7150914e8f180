"""Whether the path of the user's images is one that DVC can hash, said before DVC looks at it."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.runtime.errors import UsageError
from tasks.runtime.image_folders import images_path, more_paths
from tasks.runtime.params import data_config, task_configs


def check_images(root: Path, values: Mapping[str, Any]) -> None:
    """Refuse a ``data.path``, or one of a task, that DVC would stumble or wait over, with a line that says what to do.

    Args:
        root: the project's root.
        values: params.yaml.

    Raises:
        UsageError: nothing there, ``~``, the workspace itself, a folder in two of them, or below one a link that leads nowhere,
            a pipe or device, or a name that is not UTF-8.
    """
    _check(root, "data.path", values["data"].get("path"))
    for task, config in task_configs(values).items() if values.get("tasks") else ():
        _check(root, f"tasks.{task}.path", config.path)
    if values["data"].get("more", {}) != {}:
        config = data_config(values)
        for name, given in config.more.items():
            _check(root, f"data.more.{name}", given)
        more_paths(config, root)


def _check(root: Path, key: str, given: Any) -> None:
    if not isinstance(given, str) or not given:
        raise UsageError(f"{key} is {given!r}; give the path of your images (data/sample is the embedded data set)")
    if given.startswith("~"):
        raise UsageError(f"{key}: DVC knows no ~; write {Path(given).expanduser()}")
    path = images_path(given, root, key)
    if any((root / "data" / made).resolve().is_relative_to(path.resolve()) for made in ("prepared", "tasks")):
        raise UsageError(f"{key}: {given} holds the project's own results; put your images into a folder of their own")
    for entry in _entries(path) if path.is_dir() else ():
        name = os.fsencode(entry.path).decode(errors="backslashreplace")
        if name != entry.path or not (entry.is_file() or entry.is_dir()):
            raise UsageError(
                f"{key}: {name} is no file that DVC can hash (a pipe, a link that leads nowhere, or a name that is not"
                " UTF-8); remove or rename it, or use an archive of the folder"
            )


def _entries(folder: Path | str) -> Iterator["os.DirEntry[str]"]:
    """All that lies below a folder but the folders themselves; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(entry.path)
            else:
                yield entry
