"""``make run``: ``dvc repro``, then MLflow brought up to date, then what came out."""

import subprocess
import sys
from pathlib import Path

from tasks import leaderboard, params, settings
from tasks.errors import run


def main() -> None:
    """Check the parameters first, so that a typing error costs a second and not an hour."""
    settings.apply()
    values = params.load()
    params.data_config(values)
    for name in params.run_config(values).methods:
        params.method_params(values, name)
    code = subprocess.run([sys.executable, "-m", "dvc", "repro", *sys.argv[1:]]).returncode
    subprocess.run([sys.executable, "-m", "tasks.sync"])
    if code == 0:
        leaderboard.show(Path("."))
    else:
        print("error: a stage failed; its message is above. The same command goes on from there.", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    run(main)
