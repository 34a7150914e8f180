"""Prepare, train and evaluate without DVC, Prefect or MLflow: ``python -m tasks.standalone METHOD...`` (all listed if none).

For a GPU machine with only torch, torchvision, numpy, safetensors and PyYAML. The stages are the same commands with the same
results; ``--seed N`` picks the seed.
"""

import argparse
import subprocess
import sys
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
    parser = argparse.ArgumentParser(prog="python -m tasks.standalone", description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    values = params.load()
    names = options.methods or list(params.run_config(values).methods)
    for name in names:
        params.method_params(values, name)
    stage("prepare")
    for name in names:
        stage("pretrain", name, str(options.seed))
        stage("evaluate", name, str(options.seed))
    columns = [score.name for score in HEADLINES if score.form == "share"]
    print(f"{'method':12}" + "".join(f"{c:>22}" for c in columns) + "   verdict")
    for name in names:
        metrics = files.read_json(Path(f"out/metrics/{name}-{options.seed}.json"))
        cells = "".join(f"{metrics[c]:22.4f}" if c in metrics else f"{'-':>22}" for c in columns)
        print(f"{name:12}{cells}   {metrics['verdict']}")


if __name__ == "__main__":
    run(main)
