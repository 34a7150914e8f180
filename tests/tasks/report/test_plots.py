"""`dvc plots show` opens without a network: its page carries what draws the plots."""

import subprocess
import sys

from tests.conftest import ROOT
from tests.support import browser
from tests.support.example_results import write_project

DVC = (sys.executable, "-m", "dvc")


def test_dvc_plots_are_drawn_without_a_network(tmp_path):
    classes = ["Coat", "Bag", "=cmd()", "a$b$ & c|d"]
    write_project(tmp_path, methods=("simclr",), num_test=40, classes=classes)
    (tmp_path / "dvc.yaml").write_text(
        "plots:\n"
        "  - out/history/simclr-0.csv: {x: epoch, y: loss}\n"
        "  - out/predictions/simclr-0.csv: {template: confusion, x: actual, y: predicted}\n"
    )
    for command in (["init", "-q", "--no-scm"], ["plots", "show", "--html-template", str(ROOT / ".dvc/plots/page.html")]):
        subprocess.run([*DVC, *command], cwd=tmp_path, check=True, capture_output=True)
    seen = browser.inspect(tmp_path / "dvc_plots/index.html")
    assert seen["requests"] == []
    assert not [line for line in seen["console"] if "Error" in line]
    assert seen["canvases"] == 2
