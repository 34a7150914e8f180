"""The command of the stage: ``python -m tasks.register``."""

import sys
from pathlib import Path

import torch

from tasks.register.registration import register
from tasks.register.registry import CHAMPION
from tasks.runtime import files
from tasks.runtime.stage import Body, Stage, main
from tasks.runtime.stage_name import StageName


def make() -> tuple[Stage, Body]:
    """The stage, with its body to be run even if it was run on the same inputs before."""
    torch.set_num_threads(1)
    stage = Stage(StageName("register"))
    (stage.work / "DONE").unlink(missing_ok=True)
    return stage, body


def body(stage: Stage) -> None:
    """Register, and write down what is where."""
    facts = register(Path())
    files.write_json(stage.out("out/registry.json"), facts)
    best = facts["aliases"].get(CHAMPION)
    if best is None:
        print("warning: every encoder has collapsed, so the alias champion stays where it is", file=sys.stderr)
    print(f"registered: {len(facts['versions'])} versions of {facts['model']}; champion: {best}")


if __name__ == "__main__":
    main(make)
