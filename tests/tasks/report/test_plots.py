"""`dvc plots show` opens without a network: its page carries what draws the plots."""

import csv
import io
import shutil
import subprocess
import sys

import yaml

from tasks.report import small
from tasks.results import load_results
from tasks.runtime import files
from tasks.verdict import judge
from tests.conftest import ROOT
from tests.support import browser
from tests.support.example_results import write_project

DVC = (sys.executable, "-m", "dvc")


def test_dvc_plots_and_metrics_of_all_methods_are_small_and_drawn_without_a_network(tmp_path):
    """The shipped dvc.yaml: one chart over all methods of each kind, one line of a few numbers for each encoder."""
    classes = ["Coat", "Bag", "=cmd()", "a$b$ & c|d"]
    write_project(tmp_path, methods=("simclr", "moco", "raw_pixels"), num_test=40, classes=classes)
    subprocess.run([*DVC, "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    shutil.copytree(ROOT / ".dvc/plots", tmp_path / ".dvc/plots")
    shipped = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({name: shipped[name] for name in ("metrics", "plots")}))
    verdict = judge(load_results(tmp_path)[0])
    for name, numbers in small.scores(verdict).items():
        files.write_json(tmp_path / f"out/scores/{name}.json", numbers)
    for name, table in small.plots(tmp_path, verdict).items():
        files.write_text(tmp_path / f"out/plots/{name}", table)
    page = ["plots", "show", "--html-template", str(ROOT / ".dvc/plots/page.html")]
    subprocess.run([*DVC, *page], cwd=tmp_path, check=True, capture_output=True)
    seen = browser.inspect(tmp_path / "dvc_plots/index.html")
    assert seen["requests"] == []
    assert not [line for line in seen["console"] if "Error" in line]
    assert seen["canvases"] == len(shipped["plots"]) == 4
    shown = subprocess.run([*DVC, "metrics", "show"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert max(map(len, shown.splitlines())) <= 100 and len(shown.splitlines()) == 4
    assert {"held_out", "linear", "knn", "seconds", "verdict"} < set(shown.splitlines()[0].split())


def test_trainings_of_unequal_epochs_are_drawn_from_start_to_end(tmp_path):
    """They take equal time: by epochs one of two would be squeezed beside one of thirty."""
    write_project(tmp_path, methods=("simclr", "moco"), num_test=40)
    whole = tmp_path / "out/history/moco-0.csv"
    whole.write_text("".join(whole.read_text().splitlines(keepends=True)[:4]))
    tables = small.plots(tmp_path, judge(load_results(tmp_path)[0]))
    rows = list(csv.DictReader(io.StringIO(tables["loss.csv"])))
    seen = {name: [float(row["trained"]) for row in rows if row["method"] == name] for name in ("simclr-0", "moco-0")}
    assert len(seen["moco-0"]) < len(seen["simclr-0"]) and {shares[-1] for shares in seen.values()} == {100.0}
    assert all(shares == sorted(shares) and shares[0] > 0 for shares in seen.values())
