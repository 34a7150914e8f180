"""One input of the shipped dvc.yaml changes: exactly the stages that read it are stale, and those after them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.dvc import graph
from tasks.runtime.errors import UsageError
from tests.support.project import command, copy_project, set_params

METHODS = ["simclr", "byol", "supervised"]
END = {"report", "register"}
Change = Callable[[Path], None]


def trained(*methods: str, seed: int = 0) -> set[str]:
    return {f"pretrain@{m}-{seed}" for m in methods} | evaluated(*methods, seed=seed)


def evaluated(*methods: str, seed: int = 0) -> set[str]:
    return {f"evaluate@{m}-{seed}" for m in methods} | END


def edit(name: str) -> Change:
    return lambda project: (project / name).write_text((project / name).read_text() + "\n# edited\n")


def param(dotted: str, value: Any) -> Change:
    def change(project: Path) -> None:
        values: Any = value
        for key in reversed(dotted.split(".")):
            values = {key: values}
        set_params(project, values)

    return change


CHANGES: dict[str, tuple[Change, set[str]]] = {
    "a method's file": (edit("ssl_core/methods/simclr.py"), trained("simclr")),
    "a file every evaluation reads": (edit("ssl_core/evaluation/knn.py"), evaluated(*METHODS)),
    "the file of a method that is not compared": (edit("ssl_core/methods/moco.py"), {"report"}),  # which reads all titles
    "a method's own number": (param("method.byol.momentum", 0.9), trained("byol")),
    "a method's own training": (param("method.byol.train.lr", 0.01), trained("byol")),
    "a number of a method that is not compared": (param("method.moco.temperature", 0.5), set()),
    "train": (param("train.epochs", 99), trained(*METHODS)),
    "augment": (param("augment.flip", 0.1), trained(*METHODS)),
    "encoder": (param("encoder.width", 99), trained(*METHODS)),
    "evaluate": (param("evaluate.bootstrap", 99), evaluated(*METHODS)),
    "data": (param("data.seed", 99), {"prepare"} | trained(*METHODS)),
    "one method more": (param("run.methods", [*METHODS, "moco"]), trained("moco")),
    "one method less": (param("run.methods", METHODS[1:]), END),
    "one seed more": (param("run.seeds", [0, 1]), trained(*METHODS, seed=1)),
    "plumbing": (edit("tasks/tracking/tracker.py"), set()),
    "an image": (lambda p: (p / "images/cat/1.png").write_bytes(b"another"), {"prepare"} | trained(*METHODS)),
    "one image more": (lambda p: (p / "images/cat/new.png").write_bytes(b"new"), {"prepare"} | trained(*METHODS)),
    "one image less": (lambda p: (p / "images/cat/1.png").unlink(), {"prepare"} | trained(*METHODS)),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped graph over three methods and the user's own folder, all of it recorded as done."""
    project = copy_project(tmp_path_factory.mktemp("stale") / "p", git=True)
    for name in ("cat/1", "dog/2"):
        (project / f"images/{name}.png").parent.mkdir(parents=True)
        (project / f"images/{name}.png").write_text(name)
    set_params(project, {"run": {"methods": METHODS}, "data": {"source": "folder", "path": "images"}})
    for stage in graph.plan(project):
        for out in stage.outs:
            out.parent.mkdir(parents=True, exist_ok=True)
            if out.suffix:
                out.write_text(stage.name)
            else:
                out.mkdir()
                (out / "file").write_text(stage.name)
    done = command(project, "dvc", "commit", "--force", "--quiet")
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture
def stale(project: Path) -> Iterator[Callable[[], set[str]]]:
    """What is stale now; afterwards the project is as it was."""
    kept = [
        project / "params.yaml",
        *(project / "images").rglob("*.png"),
        *project.glob("ssl_core/**/*.py"),
        *project.glob("tasks/*"),
    ]
    before = {path: path.read_bytes() for path in kept if path.is_file()}
    yield lambda: {stage.name for stage in graph.plan(project) if stage.stale}
    (project / "images/cat/new.png").unlink(missing_ok=True)
    for path, data in before.items():
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.fault("F48", "F70")
def test_a_change_makes_stale_what_reads_it(project: Path, stale: Callable[[], set[str]], name: str) -> None:
    change, expected = CHANGES[name]
    change(project)
    assert stale() == expected


@pytest.mark.fault("F70")
def test_every_file_that_a_stage_lists_makes_it_stale_and_no_other(project: Path, stale: Callable[[], set[str]]) -> None:
    reach = {"prepare": {"prepare"} | trained(*METHODS), "pretrain": trained(*METHODS), "evaluate": evaluated(*METHODS)}
    reach |= {name: {name} for name in END} | {
        "prepare_more": set(),
        "prepare_task": set(),
        "evaluate_task": set(),
        "finetune": set(),
        "finetune_task": set(),
    }  # none is listed
    deps = {
        stage: [
            name for name in entry.get("do", entry)["deps"] if name.startswith(("ssl_core/", "tasks/")) and "${" not in name
        ]
        for stage, entry in yaml.safe_load((project / "dvc.yaml").read_text())["stages"].items()
    }

    def of(name: str) -> str:  # of a folder one file stands for all: DVC hashes the whole
        return max(p.relative_to(project).as_posix() for p in [project / name, *(project / name).glob("*.py")])

    def readers(file: str) -> set[str]:
        return {s for stage, names in deps.items() if any(f"{file}/".startswith(f"{n}/") for n in names) for s in reach[stage]}

    expected = {file: readers(file) for names in deps.values() for file in map(of, names)}
    expected |= {file: readers(file) | trained(m) for m in METHODS for file in [f"ssl_core/methods/{m}.py"]}
    for name, stages in expected.items():
        before = (project / name).read_bytes()
        edit(name)(project)
        assert stale() == stages, name
        (project / name).write_bytes(before)


def test_every_stage_can_come_back_from_dvcs_run_cache(project: Path) -> None:
    from dvc.repo import Repo
    from dvc.stage.cache import _can_hash

    with Repo(str(project)) as repo:
        stages = list(repo.index.stages)
        assert len(stages) == 3 + 2 * len(METHODS) and all(map(_can_hash, stages))


PATHS = {
    "nowhere": "does not exist",
    "~/images": "knows no ~; write /",
    "": "is ''; give the path",
    "data": "the project's own results",
    "odd": r"odd/link.png is no file that DVC can hash",
    "odder": r"odder/\\xff.png is no file that DVC can hash",
    "oddest": r"oddest/pipe is no file that DVC can hash",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.fault("F32")
def test_a_path_that_dvc_would_stumble_over_is_one_clear_line(project: Path, stale: Callable[[], set[str]], path: str) -> None:
    for name in ("odd", "odder", "oddest"):
        (project / name).mkdir(exist_ok=True)
    if not (project / "odd/link.png").is_symlink():
        (project / "odd/link.png").symlink_to("nowhere.png")
        os.mkfifo(project / "oddest/pipe")
    Path(os.fsdecode(bytes(project / "odder/") + b"/\xff.png")).touch()
    set_params(project, {"data": {"path": path}})
    with pytest.raises(UsageError, match=PATHS[path]):
        graph.plan(project)
