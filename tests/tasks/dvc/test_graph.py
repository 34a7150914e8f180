"""Plan, run, fail, kill and stop: real git and DVC, stages of no work."""

import contextlib
import dataclasses
import difflib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dvc.utils.serialize import dumps_yaml

from ssl_core.config import ConfigError, MissingKey
from tasks.dvc import graph, lock_files
from tasks.dvc.outcome import Fate, Outcome
from tasks.dvc.runner import Runner
from tasks.dvc.schedule import Schedule
from tasks.runtime import params
from tasks.runtime.errors import Preempted, UsageError, explain
from tests.conftest import ROOT
from tests.support import tiny_graph as tiny
from tests.support.processes import alive, wait_for
from tests.support.project import duplicate, environment


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was run once, by plain dvc repro."""
    project = tiny.make(tmp_path_factory.mktemp("fresh") / "p")
    done = tiny.dvc(project, "repro")
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture
def project(fresh: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished project; nothing is counted yet."""
    duplicate(fresh, tmp_path / "p")
    (tmp_path / "p" / "runs.log").unlink()
    shutil.rmtree(tmp_path / "p" / ".ssl")
    (tmp_path / "p" / ".ssl").mkdir()
    yield tmp_path / "p"
    tiny.end_all(tmp_path / "p")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    return tiny.make(tmp_path / "p")


def stale(project: Path) -> set[str]:
    return {s.name for s in graph.plan(project) if s.stale}


def bring_up(project: Path, **choice: list[str]) -> Schedule:
    plan = graph.plan(project)
    schedule = Schedule(plan, **choice)
    tiny.run_all(schedule, Runner(project))
    lock_files.put_in_order(project, [stage.name for stage in plan])
    with contextlib.chdir(project):  # where commands are
        graph.remember(project, schedule.which(Fate.RAN))
    return schedule


def results(project: Path) -> dict[str, str]:
    files = [project / "dvc.lock", *(project / "out").rglob("*"), *(project / "reports").rglob("*")]
    return {f.relative_to(project).as_posix(): f.read_text() for f in files if f.is_file() and f.name != ".gitignore"}


def test_the_plan_is_dvcs_graph_with_what_is_stale(project: Path) -> None:
    plan = {s.name: s for s in graph.plan(project)}
    assert sorted(plan) == sorted(tiny.NAMES) and not any(s.stale for s in plan.values())
    assert plan["evaluate@byol-0"].after == {"pretrain@byol-0"}
    assert plan["report"].after == {n for n in tiny.NAMES if "@" in n}
    order = list(plan)
    assert all(order.index(up) < order.index(s.name) for s in plan.values() for up in s.after)
    tiny.set_lr(project, "byol", 2)
    assert stale(project) == {"pretrain@byol-0", "evaluate@byol-0", "report"}


def test_what_is_to_run_again_does_and_only_what_depends_on_it(project: Path) -> None:
    plan = graph.again(graph.plan(project), {"pretrain@byol-0"})
    assert {stage.name for stage in plan if stage.stale} == {"pretrain@byol-0", "evaluate@byol-0", "report"}
    schedule = Schedule(plan)
    tiny.run_all(schedule, Runner(project, again={"pretrain@byol-0"}))
    assert tiny.computed(project) == ["pretrain@byol-0"]  # with the same output as before
    assert not schedule.failed and not stale(project)


def test_what_an_older_params_yaml_lacks_is_named_with_where_to_find_it(project: Path) -> None:
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("seeds:", "seed_list:"))
    with pytest.raises(ConfigError) as asked:
        graph.plan(project)
    dvc = project / "dvc.yaml"
    dvc.write_text(dvc.read_text().replace("run.seeds", "run.new_key"))
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("seed_list:", "seeds:"))
    with pytest.raises(MissingKey, match=r"^run.new_key is missing$") as found:
        graph.plan(project)
    assert "seed" in str(asked.value) and explain(found.value) == (
        2, "params.yaml: run.new_key is missing; copy its line from the params.yaml that came with this version"
    )  # fmt: skip


def test_what_only_dvc_cannot_read_is_named_with_its_line(project: Path) -> None:
    with (project / "params.yaml").open("a") as file:
        file.write("  more: {weights: models:/x@champion}\n")
    with pytest.raises(
        UsageError, match=r"unexpected ':', line \d+; inside \{\} an address like models:/NAME@ALIAS wants quot"
    ):
        graph.plan(project)


def test_a_plan_takes_no_lock_that_a_starting_stage_could_trip_over(project: Path) -> None:
    with lock_files.rwlock(project) as path:
        before = path.read_text() if path.exists() else None
    graph.plan(project)
    with lock_files.rwlock(project) as path:
        assert (path.read_text() if path.exists() else None) == before


@pytest.mark.fault("R7")
def test_parallel_runs_give_the_bytes_of_plain_dvc_repro(fresh: Path, bare: Path) -> None:
    tiny.control(bare, pretrain_simclr_0={"seconds": 1.0, "code": 5})  # byol alone is recorded at first
    assert bring_up(bare).failed == ["pretrain@simclr-0"]
    tiny.control(bare)
    assert bring_up(bare).summary() == "6 stages: 3 ran, 3 unchanged"
    assert results(bare) == results(fresh)
    assert tiny.is_clean(bare)
    computed = tiny.computed(bare)
    whole = (bare / "dvc.lock").read_text()
    for cut in (whole.partition(": python stage.py")[0], ""):  # dvc was killed while it wrote
        (bare / "dvc.lock").write_text(cut)
        assert "cut off" in lock_files.repair(bare)[0] and lock_files.repair(bare) == []
    for out in ("out", "reports", "data"):
        shutil.rmtree(bare / out)
    assert bring_up(bare).summary() == "6 stages: 6 restored from the cache"
    assert results(bare) == results(fresh) and tiny.computed(bare) == computed


def test_a_method_added_to_a_recorded_project_stands_where_the_graph_has_it(project: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["run"]["methods"], values["method"]["moco"] = ["moco", "simclr", "byol"], {"train": {"lr": 1}}
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    plain = duplicate(project, tmp_path / "plain")
    assert bring_up(project).summary() == "8 stages: 3 ran, 5 unchanged"
    assert tiny.dvc(plain, "repro").returncode == 0
    recorded = yaml.safe_load((plain / "dvc.lock").read_text())
    assert list(recorded["stages"])[-1] == "evaluate@moco-0"  # DVC appends
    assert recorded == yaml.safe_load((project / "dvc.lock").read_text())
    assert bring_up(plain).summary() == "8 stages: 8 unchanged"  # the next run of ours puts it in order
    assert results(project) == results(plain)
    assert list(yaml.safe_load((project / "dvc.lock").read_text())["stages"]) == [s.name for s in graph.plan(project)]


@pytest.mark.fault("F11")
def test_one_method_fails_and_the_others_go_on(project: Path) -> None:
    for method in ("simclr", "byol"):
        tiny.set_lr(project, method, 3)
    tiny.control(project, pretrain_byol_0={"code": 5})
    schedule = bring_up(project)
    assert schedule.failed == ["pretrain@byol-0"] and "exit 5" in str(schedule.outcomes["pretrain@byol-0"])
    assert "evaluate@byol-0 not run: needs pretrain@byol-0" in schedule.summary()
    assert (project / "reports/leaderboard.csv").read_text() == "method,seed\nsimclr-0.json,0\n"  # no row of an earlier run
    tiny.control(project)
    assert bring_up(project).failed == []
    assert (project / "reports/leaderboard.csv").read_text() == "method,seed\nbyol-0.json,0\nsimclr-0.json,0\n"
    assert tiny.computed(project).count("pretrain@simclr-0") == 1 and tiny.is_clean(project)


def test_what_another_run_made_since_a_stage_failed_is_not_removed(project: Path) -> None:
    assert Schedule(graph.plan(project)).out_of_date == set()
    old = project / "out/encoders/simclr-0"
    for made_since in (False, True):
        schedule = Schedule([dataclasses.replace(stage, stale=True) for stage in graph.plan(project)])
        while not schedule.outcomes.get("evaluate@simclr-0"):
            for stage in schedule.ready(1):
                how = Fate.FAILED if stage.name == "pretrain@simclr-0" else Fate.RAN
                schedule.finished(stage.name, Outcome(0, how, ""))
        if made_since:
            time.sleep(0.1)
            old.rename(project / "made")
            (project / "made").rename(old)
        assert {"pretrain@simclr-0", "evaluate@simclr-0", "report"} <= schedule.out_of_date and old.exists()
        while not schedule.over():
            for stage in schedule.ready(1):
                schedule.finished(stage.name, Outcome(0, Fate.RAN, ""))
        assert old.exists() == made_since
        old.mkdir(exist_ok=True)


@pytest.mark.parametrize("victim", ["stage", "dvc"])
@pytest.mark.fault("F13", "R8")
def test_after_kill_9_the_same_command_finishes(project: Path, victim: str) -> None:
    tiny.set_lr(project, "byol", 4)
    tiny.control(project, pretrain_byol_0={"seconds": 60})
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(Runner(project).run("pretrain@byol-0")))
    thread.start()
    pid = tiny.running_pid(project, "pretrain@byol-0")
    os.kill(pid if victim == "stage" else os.getpgid(pid), signal.SIGKILL)
    thread.join(60)
    assert outcomes[0].code == (137 if victim == "stage" else 75)
    assert victim == "dvc" or outcomes[0].message.startswith("ended by signal 9 (Killed), by a person, or by the system")
    assert not alive(pid)  # nobody would record it: it does not work on beside the next one
    tiny.control(project)
    assert bring_up(project).summary() == "6 stages: 1 ran, 5 unchanged" and tiny.is_clean(project)


@pytest.mark.parametrize("stubborn", [False, True])
def test_stop_ends_all_children_and_starts_nothing_more(project: Path, stubborn: bool) -> None:
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("epochs: 1", "epochs: 2"))
    slow = {"seconds": 60, "stubborn": stubborn}
    tiny.control(project, pretrain_byol_0=slow, pretrain_simclr_0=slow)
    runner, schedule = Runner(project, grace=3.0 if stubborn else 7.0), Schedule(graph.plan(project))
    thread = threading.Thread(target=tiny.run_all, args=(schedule, runner, 1))
    thread.start()
    wait_for(lambda: [n for n in tiny.computed(project) if n.startswith("pretrain")])
    time.sleep(0.3)
    start = time.monotonic()
    runner.stop()
    assert time.monotonic() - start < 10 and not tiny.stages_alive(project)
    thread.join(30)
    assert len(tiny.computed(project)) == 1  # the queued method never started
    with pytest.raises(Preempted):
        runner.run("prepare")
    if not stubborn:
        tiny.control(project)
        assert bring_up(project).failed == [] and tiny.is_clean(project)


def test_a_stage_that_plain_dvc_is_running_is_waited_for(project: Path) -> None:
    tiny.set_lr(project, "byol", 5)
    tiny.control(project, pretrain_byol_0={"seconds": 4})
    command = [sys.executable, "-m", "dvc", "repro", "-s", "pretrain@byol-0"]
    other = subprocess.Popen(command, cwd=project, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    tiny.running_pid(project, "pretrain@byol-0")
    assert Runner(project).run("pretrain@byol-0").how == "unchanged"
    assert other.wait(60) == 0 and tiny.computed(project) == ["pretrain@byol-0"]


@pytest.mark.fault("F9", "F35")
def test_two_runners_compute_a_stage_once(project: Path) -> None:
    tiny.set_lr(project, "byol", 6)
    tiny.control(project, pretrain_byol_0={"seconds": 1})
    lines: list[str] = []
    hows: list[str] = []

    def run() -> None:
        hows.append(Runner(project).run("pretrain@byol-0", lines.extend).how)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(hows) == ["ran", "unchanged"] and tiny.computed(project) == ["pretrain@byol-0"]
    assert lines.count("worked on pretrain@byol-0") == 1
    assert lines.count("another run began this, and still works on it; waiting for it") == 1


@pytest.mark.fault("F10", "F69")
def test_locks_of_the_dead_are_released_and_those_of_the_living_kept(project: Path) -> None:
    with lock_files.rwlock(project) as path:
        reused = {"pid": os.getpid(), "cmd": "dvc repro -s pretrain@byol-0"}  # this process is no dvc
        living = {"pid": os.getpid(), "cmd": " ".join(sys.argv)}
        outs = {str(project / "out/encoders/byol-0"): reused, str(project / "reports"): living}
        path.write_text(f'{{"write": {outs}, "read": {{}}}}'.replace("'", '"'))
    assert "busy" in tiny.dvc(project, "repro", "-s", "pretrain@byol-0").stderr
    assert len(lock_files.release_dead_locks(project)) == 1
    assert tiny.dvc(project, "repro", "-s", "pretrain@byol-0").returncode == 0
    with lock_files.rwlock(project) as path:
        assert "reports" in path.read_text()
        path.write_text('{"write": {"')
    assert "damaged" in lock_files.release_dead_locks(project)[0] and lock_files.release_dead_locks(project) == []


def test_an_override_changes_params_as_an_experiment_does(bare: Path) -> None:
    before = (bare / "params.yaml").read_text()
    for wrong, said in {
        ("method.byol.train.rl=2",): "no method.byol.train.rl; did you mean 'lr'",
        ("nonsense",): "missing EQUAL",
        ("train.epochs=2", "trian.epochs=1"): "no trian.epochs; did you mean 'train'",
        ("train.images=ten",): "train.images is 'ten'",
        ("run.methods=[simclr,boyl]",): "'boyl' is unknown; did you mean 'byol'",
        ("run.seeds=[0,-1]",): "run.seeds[1] is -1",
        ("data.path=/nope",): "data.path: /nope does not exist",
        ("data.more={y2: /nope}",): "data.more has no such parts yet; +data.more.NAME=VALUE adds one",
        ("data.name='a: b' # c",): "wants quotation marks of its own",
        ("data=5",): "params.yaml: section data is missing",
    }.items():
        with pytest.raises((UsageError, ConfigError), match=re.escape(said)):
            graph.override(bare, wrong)
        assert (bare / "params.yaml").read_text() == before
    assert graph.override(bare, ["method.byol.train.lr=2", "run.seeds=[0,1]"])
    assert not graph.override(bare, ["method.byol.train.lr=2"])
    assert "# what to compare" in (bare / "params.yaml").read_text()
    assert {s.name for s in graph.plan(bare)} > {"pretrain@byol-1", "evaluate@simclr-1"}


def test_a_saved_experiment_records_nothing_that_was_not_made_from_what_is_there(project: Path) -> None:
    tiny.set_lr(project, "byol", 2)
    tiny.set_lr(project, "simclr", 2)
    bring_up(project, targets=["pretrain@byol-0"])
    assert "pretrain@simclr-0" in stale(project) and "pretrain@byol-0" not in stale(project)
    plan = {stage.name: stage for stage in graph.plan(project)}
    assert "recorded as" in graph.save_experiment(project, "half", [plan["prepare"], plan["pretrain@byol-0"]])
    assert "pretrain@simclr-0" in stale(project) and "half" in tiny.dvc(project, "exp", "list").stdout
    git = ["git", "-C", str(project)]
    ref = subprocess.check_output([*git, "for-each-ref", "--format=%(refname)", "refs/exps"], text=True).split()[0]
    kept = subprocess.check_output([*git, "ls-tree", "-r", "--name-only", ref], text=True).split()
    assert "dvc.lock" in kept and not [path for path in kept if path.startswith(("data/", "out/encoders/"))]  # DVC keeps them
    tiny.set_lr(project, "byol", 3)  # an edit between the run and its record
    assert "not recorded" in graph.save_experiment(project, "late", [plan["pretrain@byol-0"]])
    assert "pretrain@byol-0" in stale(project) and "late" not in tiny.dvc(project, "exp", "list").stdout


def test_what_is_chosen_is_what_runs(project: Path) -> None:
    plan = graph.plan(project)
    assert Schedule(plan, targets=["pretrain"]).chosen == ["prepare", "pretrain@simclr-0", "pretrain@byol-0"]
    assert set(Schedule(plan, targets=["evaluate@byol-0"]).chosen) == {"prepare", "pretrain@byol-0", "evaluate@byol-0"}
    assert set(Schedule(plan, methods=["byol"]).chosen) == {"prepare", "pretrain@byol-0", "evaluate@byol-0", "report"}
    with pytest.raises(UsageError, match="pretrian"):
        Schedule(plan, targets=["pretrian"])
    for method in ("simclr", "byol"):
        tiny.set_lr(project, method, 7)
    asked = bring_up(project, methods=["byol"])
    assert asked.outcomes["report"].message.endswith(
        "is out of date and was not asked for"
    )  # rows of two settings are not mixed
    assert sorted(tiny.computed(project)) == ["pretrain@byol-0"]  # its encoder has the same bytes: no evaluation


def test_what_an_interrupted_experiment_left_staged_is_not_committed(bare: Path) -> None:
    note = bare / lock_files.NOTE
    note.parent.mkdir(exist_ok=True)
    note.write_text(f"DVC_ROOT {bare}")
    subprocess.run(["git", "add", "-f", lock_files.NOTE], cwd=bare, check=True)
    assert "taken out of git's index" in lock_files.repair(bare)[0] and note.exists()
    assert subprocess.run(["git", "diff", "--cached", "--name-only"], cwd=bare, capture_output=True, check=True).stdout == b""
    assert lock_files.repair(bare) == []


def test_an_override_touches_no_line_but_its_own(tmp_path: Path) -> None:
    """Methods that are switched off by a comment sign, words after a value and values on one line stay as they are."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "data/sample").mkdir(parents=True)
    before = (tmp_path / "params.yaml").read_text().splitlines()
    assert graph.override(tmp_path, ["train.images=200_000", "run.seeds=[0,1]", "run.methods=" + str(listed(tmp_path, "dino"))])
    after = (tmp_path / "params.yaml").read_text().splitlines()
    changed = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
    assert sum(line.startswith("-") for line in changed) == 2, changed  # the values of images and seeds
    assert sorted(line.split("#")[0].split()[1] for line in changed if line.startswith("+")) == ["-", "images:", "seeds:"]
    assert params.load(tmp_path / "params.yaml")["run"]["methods"][-1] == "dino"
    assert dumps_yaml({"name": None, "lr": 1e-6}) == "name:\nlr: 1e-06\n", "dvc.lock, by this process too, is as DVC writes it"


def listed(project: Path, *more: str) -> list[str]:
    return [*params.load(project / "params.yaml")["run"]["methods"], *more]
