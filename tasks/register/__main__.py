"""The command of the stage: ``python -m tasks.register``, and by hand with ``--take``."""

import argparse
import sys
from pathlib import Path

import torch

from tasks.register.registration import register
from tasks.runtime.stage import Body, Stage, main
from tasks.runtime.stage_name import StageName
from tasks.tracking.registered import CHAMPION, REGISTRATION


def make() -> tuple[Stage, Body]:
    """The stage, with its body to be run even if it was run on the same inputs before."""
    parser = argparse.ArgumentParser(prog="python -m tasks.register", description="Register the encoders in MLflow.")
    parser.add_argument("--take", action="store_true", help="move aliases that name newer results of another clone, too")
    take = parser.parse_args().take
    torch.set_num_threads(1)
    stage = Stage(StageName("register"))
    (stage.work / "DONE").unlink(missing_ok=True)
    return stage, lambda stage: body(stage, take)


def body(stage: Stage, take: bool) -> None:
    """Register, and write down what is where."""
    done = register(Path(), take=take)
    done.wanted.write(stage.out(str(REGISTRATION)))
    best = done.wanted.aliases.get(CHAMPION)
    for note in done.notes:
        print(f"note: {note}")
    for name, reason in done.left_out.items():
        print(f"warning: {name} is not registered: {reason}; train it again, with a lower train.lr", file=sys.stderr)
    if done.unnamed:
        print(f"warning: no encoder is named champion. {done.unnamed}", file=sys.stderr)
    for alias, name in done.held.items():
        print(f"warning: {alias} stays {name} as it was registered before: there is no result of {name} now", file=sys.stderr)
    number = f" (version {done.versions[best]})" if best else ""
    champion = best or done.held.get(CHAMPION) or "none"
    if CHAMPION in done.left:
        champion, number = "as it was", ""
    print(f"registered: {len(done.versions)} versions of {done.wanted.model}; champion: {champion}{number}")


if __name__ == "__main__":
    main(make)
