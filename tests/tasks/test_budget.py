"""Equal time: the shares that the command writes, what it measures, and what a run says it will take."""

import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from tasks import budget, forecast
from tasks.dvc.graph import PlannedStage
from tasks.dvc.outcome import Fate, Outcome
from tasks.dvc.runner import Runner
from tasks.dvc.schedule import Schedule
from tasks.runtime import dataset, files, params
from tasks.runtime.stage_name import StageName
from tests.conftest import ROOT
from tests.support.project import TINY, command, copy_project, set_params, training_project

SHIPPED = (ROOT / "params.yaml").read_text()


def test_shares_give_each_method_the_same_time_and_keep_the_comments():
    costs = {"simclr": 7e-4, "cpc": 2.5e-3, "supervised": 4.31e-4}
    text = budget.rewrite(SHIPPED, costs, seconds=40)
    values = params.parse(text, Path("params.yaml"))
    seconds = {}
    for name, cost in costs.items():
        train = params.method_params(values, name).train
        seconds[name] = cost * train.steps(10_000) * train.batch_size
    assert seconds == pytest.approx(dict.fromkeys(costs, 40), rel=0.02)
    assert params.method_params(values, "simclr").train.epoch_share == 1, "the one in the middle"
    before, after = SHIPPED.splitlines(), text.splitlines()
    assert [line.split("#")[1:] for line in before] == [line.split("#")[1:] for line in after]
    assert {line.split(":")[0].strip() for line in set(after) - set(before)} == {"train", "images"}


def test_without_seconds_the_budget_stays_and_only_named_methods_change():
    text = budget.rewrite(SHIPPED, {"simclr": 7e-4, "moco": 7e-4}, seconds=None)
    old, new = (params.parse(t, Path("params.yaml")) for t in (SHIPPED, text))
    assert new["train"] == old["train"]
    assert {m for m in old["method"] if old["method"][m] != new["method"][m]} <= {"simclr", "moco"}


def test_the_shipped_shares_are_about_one_in_the_middle_and_every_trained_method_has_one():
    values = params.parse(SHIPPED, Path("params.yaml"))
    names = budget.trained(values)
    shares = {name: params.method_params(values, name).train.epoch_share for name in names}
    assert statistics.median(shares.values()) == pytest.approx(1, abs=0.05) and len(set(shares.values())) > len(names) / 2
    assert {"raw_pixels", "random_init"}.isdisjoint(names)


def test_what_a_training_costs_is_measured_on_its_own_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    project = training_project(tmp_path / "p", train={"epochs": None, "images": 16 * 100})
    monkeypatch.chdir(project)
    values, data = params.load(), dataset.load()
    cost = budget.measure(values, "simclr", data, torch.device("cpu"))
    assert cost.images == 1600 and cost.memory > 1e8
    assert 1e-6 < cost.per_image < 0.1
    values["train"]["images"] = 16  # a single step
    assert budget.measure(values, "simclr", data, torch.device("cpu")).per_image > 0


def test_processes_share_what_an_image_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(training_project(tmp_path / "p"))
    monkeypatch.setattr(budget, "_seconds", lambda trainer, now, enough: (0.5, [1.0]))
    values, data, costs = params.load(), dataset.load(), []
    for processes in (1, 2):
        values["train"]["processes"] = processes
        costs.append(budget.measure(values, "simclr", data, torch.device("cpu")).per_image)
    assert costs[0] == pytest.approx(2 * costs[1], rel=0.01) and costs[1] > 0


def test_the_command_leaves_a_published_recipe_alone(tmp_path: Path):
    project = training_project(tmp_path / "p")
    before = (project / "params.yaml").read_bytes()
    result = command(project, "tasks.budget", "--seconds", "5")
    assert result.returncode == 2 and "train.epochs is set" in result.stderr
    assert (project / "params.yaml").read_bytes() == before


def test_a_training_of_few_steps_is_warned_of_before_it_starts(tmp_path: Path):
    project = training_project(tmp_path / "p", train={"epochs": None, "images": 16 * 9})
    result = command(project, "tasks.pretrain", "simclr", "0")
    assert result.returncode == 0, result.stderr
    warning, rest = result.stderr.split("raise train.images", 1)
    assert "warning: simclr gets only 9 optimizer steps of 16 images" in warning and "100 %" in rest


def test_another_budget_leaves_what_is_not_trained_as_it_was(tmp_path: Path):
    project, made = training_project(tmp_path / "p"), []
    for images in (16 * 9, 16 * 12):
        set_params(project, {"train": {"epochs": None, "images": images}})
        assert command(project, "tasks.pretrain", "random_init", "0").returncode == 0
        made.append(files.sha256(project / "out/encoders/random_init-0" / files.MANIFEST))
    assert made[0] == made[1]


def plan(*methods: str) -> list[PlannedStage]:
    """``prepare`` and a training of each method, all stale."""
    first = PlannedStage("prepare", StageName("prepare"), (), (), True)
    names = [StageName("pretrain", method, 0) for method in methods]
    return [first, *(PlannedStage(str(name), name, (("prepare",),), (), True) for name in names)]


def test_a_run_says_what_it_will_take_and_at_the_end_how_wrong_that_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    project = training_project(tmp_path / "p", train={"epochs": None, "images": 16 * 40})
    monkeypatch.setattr(forecast, "WORTH_IMAGES", 2 * 16 * 40 + 1)  # more than they see, were the images as small as SIDE
    monkeypatch.setattr(forecast, "SIDE", 4)
    schedule = Schedule(plan("simclr", "byol", "raw_pixels"))
    said: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        expected = forecast.make(Runner(project), schedule, 2, pool, said.extend)
    assert expected is not None and list(expected.seconds) == ["simclr", "byol"]
    assert said == ["measuring some steps of 2 methods, to say how long this will take ..."]
    first, each, *unequal = expected.lines()
    assert len(unequal) <= 1, "whether the two cost the same is measured"
    assert first.startswith("2 trainings will take about 0:") and "2 at a time" in first and "GB" in first
    assert each.startswith("  simclr 0:")
    assert command(project, "tasks.pretrain", "simclr", "0").returncode == 0
    for name, how in (("pretrain@simclr-0", Fate.RAN), ("pretrain@byol-0", Fate.RESTORED)):
        schedule.outcomes[name] = Outcome(0, how, "")
    taken = forecast.read_cost(project, "simclr-0")["seconds"]
    exact = replace(expected, seconds={"simclr": taken / 1.1, "byol": 99.0})
    assert exact.error(project, schedule).endswith("(+10 %, the sum of 1 trainings)")


@pytest.mark.parametrize(
    ("seconds", "order"),
    [
        ({}, ["simclr", "byol", "moco", "raw_pixels"]),
        ({"simclr": 5.0, "byol": 9.0, "moco": 7.0}, ["raw_pixels", "byol", "moco", "simclr"]),
    ],
)
def test_of_trainings_the_longest_starts_first_where_it_is_known(seconds: dict[str, float], order: list[str]):
    schedule = Schedule(plan("simclr", "byol", "moco", "raw_pixels"))
    schedule.finished("prepare", Outcome(0, Fate.RAN, ""))
    trainings = tuple(StageName("pretrain", method, 0) for method in seconds)
    schedule.expected = forecast.Forecast(trainings, seconds, 0, jobs=1).by_stage()
    assert [stage.parts.method for _ in order for stage in schedule.ready(1)] == order


def test_a_run_says_if_the_times_are_not_the_same_and_how_they_get_it():
    first = StageName("pretrain", "simclr", 0)
    equal = forecast.Forecast((first,), {"simclr": 40.0, "byol": 44.0, "moco": 38.0}, 10**9, jobs=2)
    assert len(equal.lines()) == 2
    apart = replace(equal, seconds={"simclr": 111.0, "byol": 60.0, "moco": 62.0, "context": 31.0})
    assert apart.lines()[2] == (
        "  not the same time for every method (simclr +82 %, context -49 %): make budget measures and writes the shares"
    )
    assert len(replace(apart, published=True).lines()) == 2, "recipes are as long as they are"


def test_one_command_prepares_the_images_and_writes_their_shares_and_names_what_does_not_fit(tmp_path: Path):
    project = copy_project(tmp_path / "p", git=True)
    set_params(project, TINY | {"data": {"max_train": 200, "max_test": 50}})
    before = {name: {"train": {"epoch_share": 3.0}} for name in ("simclr", "rotation")}
    set_params(project, {"train": {"epochs": None, "images": 1600}, "method": {"context": {"grid": 14}} | before})
    path = project / "params.yaml"
    values = params.parse(path.read_text(), path)
    values["run"]["methods"] = ["simclr", "rotation", "context"]
    values["method"] = {name: values["method"][name] for name in ("simclr", "rotation", "context", "byol", "raw_pixels")}
    path.write_text(yaml.safe_dump(values))
    result = command(project, "tasks.budget", "--seconds", "0.5")
    assert result.returncode == 0, result.stderr
    assert "context keeps its share: an image of 28 px is too small for a 14 x 14 grid of tiles" in result.stderr
    new = params.parse(path.read_text(), path)
    shares = {name: new["method"][name]["train"]["epoch_share"] for name in ("simclr", "rotation", "context")}
    assert shares["context"] == values["method"]["context"]["train"]["epoch_share"]
    # 1 is an image of middling cost, which lies in the middle of the two, wherever that is on this machine.
    assert 1 / shares["simclr"] + 1 / shares["rotation"] == pytest.approx(2, abs=0.02) and new["train"]["images"] != 1600
    assert new["method"]["byol"] == values["method"]["byol"] and "run.methods does not list keep theirs" in result.stdout
    assert {line.split()[0] for line in result.stdout.splitlines() if "us an image" in line} == {"simclr", "rotation"}
    prepared = command(project, "tasks.run", "prepare")
    assert (prepared.returncode, prepared.stderr) == (0, ""), "it is up to date, and no table is missed"


def test_a_run_that_is_over_soon_is_not_measured(tmp_path: Path):
    project = training_project(tmp_path / "p")
    with ThreadPoolExecutor(2) as pool:
        assert forecast.make(Runner(project), Schedule(plan("simclr", "byol")), 2, pool, print) is None


def test_a_file_that_cannot_be_written_is_told_before_the_measuring(monkeypatch: pytest.MonkeyPatch):
    def refuse(text: str) -> None:
        raise PermissionError(13, "Permission denied", "params.yaml")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["budget"])
    monkeypatch.setattr(budget, "costs", lambda *given: pytest.fail("it was measured"))
    monkeypatch.setattr(budget.params, "write", refuse)
    with pytest.raises(PermissionError, match=r"params\.yaml"):
        budget.main()
