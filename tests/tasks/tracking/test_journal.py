"""The journal is the truth: nothing written is lost, nothing is written twice, no number is bent."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.tracking.journal import Journal, flat, read, surroundings
from tests.conftest import ROOT

RUN = {
    "fingerprint": "f" * 64,
    "stage": "pretrain@simclr-0",
    "name": "simclr",
    "seed": 0,
}


def begin(path: Path, position: int | None = None, **changes) -> Journal:
    journal = Journal(path, position)
    journal.start(**RUN | {"tags": {"commit": "a"}, "params": {"train": {"lr": 0.1}}} | changes)
    return journal


def test_events_come_back_in_order_and_complete(tmp_path):
    with begin(
        tmp_path / "new" / "j.jsonl",
        data={"name": "sample", "sha256": "d"},
        children=["simclr-0"],
    ) as journal:
        journal.metrics(1, {"train/loss": 2})
        journal.tags({"verdict": "healthy"})
        journal.artifact(Path("out/views.png"), "views")
        journal.end("FINISHED", cost={"seconds": 1.5}, encoder_sha256="e")
        journal.publish(tmp_path / "out" / "simclr-0.jsonl")
    start, metrics, tags, artifact, end = read(tmp_path / "out" / "simclr-0.jsonl")
    assert start["run"] == RUN | {
        "tags": surroundings() | {"commit": "a"},
        "params": {"train": {"lr": 0.1}},
        "data": {"name": "sample", "sha256": "d"},
        "children": ["simclr-0"],
    }
    assert (metrics["step"], metrics["metrics"], tags["tags"]) == (
        1,
        {"train/loss": 2.0},
        {"verdict": "healthy"},
    )
    assert (artifact["path"], artifact["folder"]) == ("out/views.png", "views")
    assert (end["status"], end["cost"], end["encoder_sha256"], end["reason"]) == (
        "FINISHED",
        {"seconds": 1.5},
        "e",
        None,
    )
    times = [e["time"] for e in (start, metrics, tags, artifact, end)]
    assert all(isinstance(t, int) for t in times) and times == sorted(times)


@pytest.mark.fault("F62")
def test_numbers_that_are_not_finite_are_written_as_words(tmp_path):
    with begin(tmp_path / "j", params={"limit": float("inf"), "path": Path("a")}) as journal:
        journal.metrics(3, {"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 1e308})
    start, metrics = read(journal.path)
    assert start["run"]["params"] == {"limit": "inf", "path": "a"}
    assert metrics["metrics"] == {"a": "nan", "b": "inf", "c": "-inf", "d": 1e308}


def test_a_checkpoint_position_forgets_what_came_after_it(tmp_path):
    journal = begin(tmp_path / "j")
    journal.metrics(1, {"loss": 1.0})
    position = journal.position
    journal.metrics(2, {"loss": 0.5})
    journal.end("KILLED")
    journal.close()
    with Journal(journal.path, position) as resumed:
        resumed.metrics(2, {"loss": 0.5})
    assert [e.get("step") for e in read(journal.path)] == [None, 1, 2]
    with Journal(journal.path, 0):
        assert journal.path.stat().st_size == 0


@pytest.mark.parametrize(
    "tail",
    [
        b'{"event": "metr',
        b"\xff\xfe\n",
        b'{"event": "metrics", "step"\n',
        b"[1]\n",
        b"\0" * 64,
    ],
)
def test_a_damaged_tail_is_cut_off_and_never_read(tmp_path, tail):
    with begin(tmp_path / "j") as journal:
        journal.metrics(1, {"loss": 1.0})
        far = journal.position + 1000
    with journal.path.open("ab") as file:
        file.write(tail)
    assert [e["event"] for e in read(journal.path)] == ["start", "metrics"]
    with Journal(journal.path, far) as resumed:  # a position beyond the end: the power failed before the data was durable
        resumed.metrics(2, {"loss": 0.5})
    assert [e["event"] for e in read(journal.path)] == ["start", "metrics", "metrics"]


@pytest.mark.fault("F61")
def test_a_resume_keeps_the_first_description_and_notes_what_changed(tmp_path):
    begin(tmp_path / "j").close()
    begin(tmp_path / "j", tags={"commit": "b"}, params={"train": {"lr": 0.2}}).close()
    begin(tmp_path / "j").close()
    start, first, second = read(tmp_path / "j")
    assert start["run"]["params"] == {"train": {"lr": 0.1}}
    assert first["tags"] == {
        "resumed": "resume_1",
        "resume_1.commit": "b",
        "resume_1.train.lr": 0.2,
    }
    assert second["tags"] == {"resumed": "resume_2"}


@pytest.mark.fault("F19")
def test_a_full_disk_leaves_whole_lines(tmp_path):
    """The file size limit stands for the disk: the line that does not fit is not there in part."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    journal = begin(tmp_path / "j")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.position + 30, old[1]))
        with pytest.raises(OSError):
            journal.metrics(1, {"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    journal.metrics(2, {"loss": 0.5})
    journal.close()
    assert [json.loads(line).get("step") for line in journal.path.read_text().splitlines()] == [None, 2]


def test_a_killed_process_loses_no_line(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from tasks.tracking.journal import Journal\n"
        "j = Journal(Path(sys.argv[1]))\n"
        "for step in range(1000): j.metrics(step, {'loss': 1.0})\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        check=False,
        args=[sys.executable, "-c", code, str(tmp_path / "j")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == -signal.SIGKILL
    assert [e["step"] for e in read(tmp_path / "j")] == list(range(1000))


def test_flat_joins_names_with_dots():
    assert flat({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {
        "a.b.c": 1,
        "a.d": [2],
        "e": None,
    }


def test_a_run_knows_its_commit_and_whether_the_code_differs_from_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "git_commit" not in surroundings()  # not a repository
    (tmp_path / "tasks").mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    (tmp_path / "dvc.lock").write_text("rewritten by every stage")
    clean = surroundings()
    (tmp_path / "tasks" / "new.py").touch()
    assert len(clean["git_commit"]) == 40
    assert (clean["git_dirty"], surroundings()["git_dirty"]) == ("false", "true")


BAD = [
    ({"time": None}, "time is missing"),
    ({"time": "now"}, "time is 'now'"),
    ({"step": 2**70}, "step is"),
    ({"step": True}, "step is"),
    ({"metrics": {"loss": "low"}}, "metrics is"),
    ({"metrics": {"loss": 10**400}}, "metrics is"),
    ({"metrics": [1]}, "metrics is"),
    ({"event": "metrjcs"}, "its event is none of start"),
    ({"event": []}, "its event is none of start"),
]


@pytest.mark.parametrize(("change", "words"), BAD)
def test_a_damaged_line_is_named_and_left_out_and_the_rest_counts(tmp_path, change, words):
    with begin(tmp_path / "j") as journal:
        for step in (1, 2, 3):
            journal.metrics(step, {"loss": 1.0})
        journal.end("FINISHED")
    lines = journal.path.read_text().splitlines()
    line = {k: v for k, v in (json.loads(lines[2]) | change).items() if v is not None}
    journal.path.write_text("\n".join([*lines[:2], json.dumps(line), *lines[3:], '{"event": "being wri']))
    faults: list[str] = []
    assert [e.get("step") for e in read(journal.path, faults)] == [None, 1, 3, None]
    (fault,) = faults
    assert fault.startswith(f"line 3: {words}")
    with Journal(journal.path) as resumed:
        resumed.metrics(4, {"loss": 1.0})
    assert [e.get("step") for e in read(journal.path)] == [None, 1, 3, None, 4]
