"""The guide to adding a method, followed to the letter in a copy of the project."""

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.project import TINY, command, copy_project, environment, set_params, write_prepared


def test_the_worked_example_passes_the_contract_and_trains(tmp_path: Path) -> None:
    guide = (ROOT / "docs/adding-a-method.md").read_text()
    code, line, block = re.findall(r"```(?:python|yaml)\n(.*?)```", guide, re.S)
    project = copy_project(tmp_path / "p")
    subprocess.run(["cp", "-r", str(ROOT / "tests"), str(project / "tests")], check=True)
    (project / "ssl_core/methods/spread.py").write_text(code)
    catalogue = project / "ssl_core/catalogue.py"
    catalogue.write_text(catalogue.read_text().replace('    "lejepa"', line + '    "lejepa"'))
    params = project / "params.yaml"
    params.write_text(params.read_text() + block)
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_contract.py", "-k", "spread"]
    result = subprocess.run(tests, cwd=project, env=environment(), capture_output=True, text=True)
    assert result.returncode == 0 and " passed" in result.stdout, result.stdout + result.stderr
    write_prepared(project)
    set_params(project, TINY)
    trained = command(project, "tasks.pretrain", "spread", "0")
    assert trained.returncode == 0, trained.stderr
    assert (project / "out/encoders/spread-0/encoder.safetensors").exists()
