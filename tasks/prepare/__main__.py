"""The command of the stage: ``python -m tasks.prepare``."""

import shutil
from pathlib import Path

from tasks.prepare import auditing
from tasks.prepare.preparation import prepare
from tasks.runtime import audit, files
from tasks.runtime.dataset import PREPARED
from tasks.runtime.errors import IntegrityError
from tasks.runtime.params import data_config, images_path, load
from tasks.runtime.stage import Body, Stage, main
from tasks.runtime.stage_name import StageName


def make() -> tuple[Stage, Body]:
    """The stage, its parameters checked."""
    return Stage(StageName("prepare"), listed=[images_path(data_config(load()).path)]), body


def body(stage: Stage) -> None:
    """Prepare, check that the user's files stayed the same meanwhile, and say in three lines what came out."""
    config = data_config(load())
    target = stage.out(str(PREPARED))
    before = files.listing_digest(Path(config.path))

    def check() -> None:
        if stage.stop_requested():
            stage.leave()

    prepare(config, target, check, stage.work / "progress.json")
    if files.listing_digest(Path(config.path)) != before:
        shutil.rmtree(target)  # even if they come back: what was read is a mixture
        raise IntegrityError(f"{config.path} changed while it was read; run the same command again")
    for line in auditing.in_three_lines(files.read_json(target / "meta.json"), audit.load(target)):
        print(line)


if __name__ == "__main__":
    main(make)
