"""``python -m tasks.standalone`` on a machine that has torch, torchvision, numpy, safetensors and PyYAML, and nothing else."""

from pathlib import Path

from tests.conftest import ROOT
from tests.support.project import command, copy_project, set_params

ABSENT = (
    "dvc", "fastapi", "httpx", "lightly", "matplotlib", "mlflow", "onnx", "onnxruntime", "onnxscript", "pandas", "prefect",
    "psutil", "pyarrow", "pytest", "rich", "ruamel", "scipy", "sklearn", "sqlalchemy",
)  # fmt: skip
HIDE = f"""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in {ABSENT} else find(name, *rest)
"""


def small_machine(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A copy of the project, and the environment in which Python finds none of the other packages."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HIDE)
    return copy_project(tmp_path / "p"), {"PYTHONPATH": str(tmp_path / "site")}


def test_a_method_is_prepared_trained_and_evaluated(tmp_path: Path) -> None:
    from tasks.runtime import params

    project, env = small_machine(tmp_path)
    set_params(project, params.read(ROOT / "presets/tiny.yaml"))
    result = command(project, "tasks.standalone", "simclr", forked=False, **env)
    assert result.returncode == 0, result.stderr
    *told, head, row = result.stdout.splitlines()
    assert len(told) == 3  # what prepare made, left out and found
    assert head.split() == ["method", "knn_top1", "linear_top1", "holdout_linear_top1", "health"]
    assert row.startswith("simclr ") and float(row.split()[1]) > 0.2  # ten classes
    assert (project / "out/encoders/simclr-0/encoder.safetensors").exists()


def test_a_command_that_needs_more_names_the_package(tmp_path: Path) -> None:
    project, env = small_machine(tmp_path)
    result = command(project, "tasks.preset", "tiny", forked=False, **env)
    assert result.returncode == 4 and result.stderr.startswith("error: the package ruamel is not installed; make setup")
    assert len(result.stderr.splitlines()) == 1
