"""The metrics file: its bytes, and what a damaged or incomplete one says."""

import json
import subprocess
import sys

import pytest

from ssl_core.evaluation.scores import SCORES
from tasks import metrics
from tasks.columns import COLUMNS, HEADLINES
from tasks.results import load_results
from tasks.runtime import files
from tasks.runtime.errors import IntegrityError
from tests.conftest import ROOT
from tests.support.example_results import write_project


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("metrics") / "project", methods=("simclr",), num_test=20)


@pytest.fixture
def path(project):
    found = project / "out/metrics/simclr-0.json"
    before = found.read_text()
    yield found
    found.write_text(before)


def test_what_is_read_is_written_again_byte_for_byte(path):
    assert files.to_json(metrics.to_json(*metrics.load(path))) == path.read_text()


def test_scores_choices_and_indicators_are_found_by_their_names(path):
    (found,), values = metrics.load(path), json.loads(path.read_text())
    assert found.score("linear_top1") == values["linear_top1"]
    assert found.score("lambda") == values["protocol"]["lambda"]
    assert found.score("uniformity") == values["health"]["uniformity"]
    assert (found.score("layer"), found.score("verdict")) == ("block4", "healthy")
    assert found.score("temperature") is None
    assert found.interval("linear") == tuple(values["linear_interval"]) and found.interval("finetune") is None
    assert [few.share for few in found.few_labels()] == [0.01, 0.1]


def test_a_share_may_be_as_small_as_params_allow(path):
    few = {"5e-05": {"mean": 0.5, "std": 0.1, "labels": 50}, "1": {"mean": 0.9, "std": 0.0, "labels": 1000}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"few_label": few}))
    assert [probe.share for probe in metrics.load(path)[0].few_labels()] == [5e-5, 1.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer": None}, "layer is missing"),
        ({"health": None}, "health is missing"),
        ({"protocol": None}, "protocol is missing"),
        ({"health": {"feature_std": 0.1, "effective_rank": 2.0, "alignment": 1.0}}, "uniformity is missing"),
        (
            {"random_health": {"feature_std": "x", "effective_rank": 2.0, "alignment": 1.0, "uniformity": -1.0}},
            "feature_std is 'x'",
        ),
        ({"verdict": "fine"}, "verdict is 'fine'"),
        ({"seed": "0"}, "seed is '0'"),
        ({"linear_top1": "0.5"}, "linear_top1 is '0.5'"),
        ({"linear_top1": float("nan")}, "linear_top1 is nan"),
        ({"nmi": True}, "nmi is True"),
        ({"linear_interval": [0.1]}, "linear_interval is"),
        ({"few_label": {"0.1": {"mean": 0.5}}}, "few_label is"),
        ({"few_label": {"many": {"mean": 0.5, "std": 0.1, "labels": 1}}}, "few_label is"),
        ({"seed": 7}, "holds the metrics of simclr-7"),
    ],
)
def test_an_incomplete_or_damaged_file_is_one_line_that_names_it(project, path, change, words):
    values = {k: v for k, v in (json.loads(path.read_text()) | change).items() if v is not None}
    path.write_text(json.dumps(values))
    with pytest.raises(IntegrityError) as caught:
        load_results(project)
    assert str(path) in str(caught.value) and words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "3", '"simclr"', "{"])
def test_what_is_no_mapping_is_refused(project, path, text):
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "tasks.leaderboard"], cwd=project, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == IntegrityError.code
    assert len(done.stderr.splitlines()) == 1 and "out/metrics/simclr-0.json" in done.stderr


def test_every_declared_score_has_a_column_of_its_name():
    names = [score.name for score in SCORES]
    assert len(set(names)) == len(names)
    assert [column for column in COLUMNS if column in names] == names
    assert {score.name for score in HEADLINES} == {s.name for s in SCORES if s.headline}


def test_the_declarations_are_read_without_torch_and_pandas():
    code = "import sys, tasks.leaderboard; print({'torch', 'pandas', 'sklearn'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
