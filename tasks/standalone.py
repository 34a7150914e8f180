"""Prepare, train and evaluate without DVC, Prefect or MLflow: ``python -m tasks.standalone METHOD...`` (all listed if none).

For a GPU machine with only torch, torchvision, numpy, safetensors and PyYAML. The stages are the same commands with the same
results; ``--seed N`` picks the seed.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.columns import HEADLINES
from tasks.runtime import files, params
from tasks.runtime.errors import run


def stage(name: str, *arguments: str) -> None:
    """Run a stage command; stop with its exit code if it fails."""
    code = subprocess.run([sys.executable, "-m", f"tasks.{name}", *arguments]).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """One method after another, then a small table."""
    parser = argparse.ArgumentParser(prog="python -m tasks.standalone", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("methods", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    values = params.load()
    names = options.methods or list(params.run_config(values).methods)
    for name in names:
        params.method_params(values, name)
    tasks = params.run_config(values).tasks
    stage("prepare")
    for task in tasks:
        stage("prepare", task)
    for name in names:
        stage("pretrain", name, str(options.seed))
        stage("evaluate", name, str(options.seed))
        for task in tasks:
            stage("evaluate", name, str(options.seed), task)
    show(names, options.seed, tasks)


def show(names: Sequence[str], seed: int, tasks: Sequence[str]) -> None:
    """The scores of each method on the images it was trained on, and a line below them for each task."""
    columns = [score.name for score in HEADLINES if score.form == "share"]
    width = max([12, *(len(f"  on {task} ") for task in tasks)])
    print(f"{'method':{width}}" + "".join(f"{c:>22}" for c in columns) + "   health")
    for name in names:
        for title, folder in {name: "", **{f"  on {task}": f"{task}/" for task in tasks}}.items():
            metrics = files.read_json(Path(f"out/metrics/{folder}{name}-{seed}.json"))
            cells = "".join(f"{metrics[c]:22.4f}" if c in metrics else f"{'-':>22}" for c in columns)
            print(f"{title:{width}}{cells}   {metrics['verdict'] if name != 'raw_pixels' else '-'}")


if __name__ == "__main__":
    run(main)
