"""What a command imports before it works: torch costs two seconds and 400 MB, MLflow and DVC as much again."""

import subprocess
import sys

HEAVY = {"torch", "mlflow", "dvc", "pandas", "matplotlib", "sklearn", "prefect"}
LIGHT = ("prepare.__main__", "report.__main__", "run", "sync", "preset", "doctor", "leaderboard")


def test_the_commands_that_need_no_heavy_library_do_not_import_it() -> None:
    code = f"import sys; import {', '.join(f'tasks.{name}' for name in LIGHT)}; print(sorted({HEAVY} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120).stdout.strip() == "[]"
