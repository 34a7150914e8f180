"""The command of the stage ``prepare_more``: ``python -m tasks.prepare.more NAME``, for a folder that ``data.more`` names.

DVC takes no list of folders as dependencies of one stage. So each further folder is the dependency of a stage of its own,
whose output changes when the folder does, and ``prepare`` depends on these outputs (docs/decisions/0033).
"""

import hashlib
import os
import sys
from pathlib import Path

from ssl_core.config import ConfigError, unknown_name
from tasks.runtime import files
from tasks.runtime.errors import UsageError
from tasks.runtime.image_folders import more_paths
from tasks.runtime.params import data_config, load
from tasks.runtime.stage import Body, Stage, main
from tasks.runtime.stage_name import StageName


def content_digest(folder: Path) -> str:
    """Digest of the names of all files below ``folder`` and of what is in them; links to folders are not followed."""
    digest = hashlib.sha256()
    for path in sorted(Path(place, name) for place, _, names in os.walk(folder) for name in names):
        try:
            content = files.sha256(path) if path.is_file() else "no file"
        except OSError as error:  # prepare says so of each
            content = f"closed ({error.strerror})"
        digest.update(f"{os.fsencode(path.relative_to(folder))!r} {content}\n".encode())
    return digest.hexdigest()


def make(name: str) -> tuple[Stage, Body]:
    """The stage of one folder, its parameters checked."""
    folders = more_paths(data_config(load()))
    if name not in folders:
        raise ConfigError(unknown_name(f"data.more.{name}", name, folders))
    path, content = folders[name], content_digest(folders[name])

    def body(stage: Stage) -> None:
        files.write_text(stage.out(f"data/more/{name}.txt"), f"{content}\n")

    return Stage(StageName("prepare_more", folder=name), {"content": content}, listed=[path]), body


def command(arguments: list[str]) -> None:
    """``NAME`` from the command line."""
    if len(arguments) != 1:
        raise UsageError("usage: python -m tasks.prepare.more NAME")
    main(lambda: make(*arguments))


if __name__ == "__main__":
    command(sys.argv[1:])
