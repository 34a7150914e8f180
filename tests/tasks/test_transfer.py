"""Several labelled sets: the table, the average rank, and who chooses where the pool has no labels."""

import csv
import io
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from ssl_core.config import ConfigError
from tasks import leaderboard, transfer
from tasks.choice import champion
from tasks.report.page import documents
from tasks.results import load_results
from tasks.runtime import files, params
from tasks.verdict import judge
from tests.support.example_results import write_project
from tests.support.project import set_params

METHODS = ("simclr", "byol", "rotation", "raw_pixels")
LEAK = {"test_images": 300, "equal": 2, "alike": 1, "checked": 298, "examples": ["a.png", "b.png"], "alike_examples": ["c.png"]}


def project_of(root: Path, labelled: bool) -> Path:
    """A pool, and a task ``tiles`` on which rotation is the best and byol cannot be told from it in rank."""
    write_project(root, METHODS, labelled=labelled)
    other = write_project(root.with_name("other"), METHODS)
    for kind in ("metrics", "predictions", "features"):
        shutil.copytree(other / "out" / kind, root / "out" / kind / "tiles")
    for method, share in {"simclr": 0.5, "byol": 0.7, "rotation": 0.8, "raw_pixels": 0.7}.items():
        path = root / f"out/metrics/tiles/{method}-0.json"
        values = files.read_json(path) | {"linear_top1": share, "holdout_linear_top1": share, "task": "tiles", "in_pool": LEAK}
        values |= {"protocol": values["protocol"] | {"test_labels": 300}, "per_class": [0.5, None, 0.6]}
        files.write_json(path, values)
    set_params(root, {"run": {"tasks": ["tiles"]}, "tasks": {"tiles": {"source": "folder", "path": "tiles"}}})
    return root


def test_scores_stand_side_by_side_with_the_average_rank(tmp_path: Path) -> None:
    found = transfer.load(project_of(tmp_path / "p", labelled=True))
    assert found is not None and [task.name for task in found.tasks] == ["data", "tiles"] and found.chose == "data"
    assert found.tasks[1].ranks == {"rotation": 1.0, "byol": 2.5, "raw_pixels": 2.5, "simclr": 4.0}
    pool = found.tasks[0].ranks
    assert dict(found.ranks) == {method: (rank + found.tasks[1].ranks[method]) / 2 for method, rank in pool.items()}
    lines = transfer.to_csv(found).splitlines()
    assert lines[0] == "method,average_rank,data,tiles" and len(lines) == 5
    assert any(line.startswith("rotation,") and line.endswith(",0.8") for line in lines)
    board = list(csv.DictReader(io.StringIO(leaderboard.to_csv(judge(load_results(tmp_path / "p")[0]), found))))
    assert next((r["average_rank"], r["tiles.linear_top1"]) for r in board if r["method"] == "rotation") == ("2.0", "0.8")


def test_the_report_shows_the_tasks_and_names_the_leak(tmp_path: Path) -> None:
    root = project_of(tmp_path / "p", labelled=True)
    results, missing = load_results(root)
    texts = documents(root, judge(results), missing)
    assert '<h2 id="tasks">' in texts["report.html"] and "a.png, b.png, c.png" in texts["report.html"]
    assert "Of 300 test images of tiles, 2 are among" in texts["leaderboard.md"] and "transfer.csv" in texts
    assert all(result.task is None for result in results)
    said = "tiles: 300 test images in 2 classes."
    assert said in texts["report.html"] and f"- {said}" in texts["leaderboard.md"]
    found = transfer.load(root)
    assert found is not None
    first, head, *rows = transfer.to_text(found).splitlines()
    assert first.endswith(":") and head.split() == ["method", "average", "rank", "data", "%", "tiles", "%"]
    assert len({len(row) for row in (head, *rows[:4])}) == 1 and "alias champion-tiles" in rows[-2] + rows[-3]


def test_advice_is_given_once_however_many_tasks_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = project_of(tmp_path / "p", labelled=True)
    for kind in ("metrics", "predictions", "features"):
        shutil.copytree(root / "out" / kind / "tiles", root / "out" / kind / "bricks")
    names = ["tiles", "bricks"]
    set_params(root, {"run": {"tasks": names}, "tasks": {name: {"source": "folder", "path": name} for name in names}})
    found = transfer.load(root)
    assert found is not None
    tiles, bricks = (next(s for s in transfer.sentences(found) if s.startswith(f"{name}: Do not")) for name in names)
    first, _, advice = tiles.partition(". ")
    assert bricks == f"bricks{first.removeprefix('tiles')}." and advice.startswith("rotation trained")
    leaderboard.show(root)
    assert capsys.readouterr().out.count(advice) == 1
    chose = project_of(tmp_path / "unlabelled", labelled=False)
    leaderboard.show(chose)
    said = capsys.readouterr().out
    assert said.count(advice) == 1 and said.count("Do not use this yet") == 2  # above the tasks, and of the task that chose


def test_a_score_of_earlier_parameters_is_in_no_table_of_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = project_of(tmp_path / "p", labelled=True)
    leaderboard.show(root, {"evaluate_task@tiles-simclr-0"})
    said = capsys.readouterr().out
    assert "not up to date: evaluate_task@tiles-simclr-0; make run makes them, or says why" in said and "Not scored" not in said
    tasks = said[said.index(transfer.TITLE) :]
    assert "rotation" in tasks and "simclr" not in tasks.split("tiles: 300")[0]
    old = {f"evaluate_task@tiles-{method}-0" for method in METHODS}
    found = transfer.load(root, old)
    assert found is not None and [task.name for task in found.tasks] == ["data"] and not found.unscored


def test_a_pool_without_labels_is_chosen_for_by_the_first_task(tmp_path: Path) -> None:
    root = project_of(tmp_path / "p", labelled=False)
    results, missing = load_results(root)
    best = champion(results)
    assert {r.task for r in results} == {"tiles"} and best is not None and best.method == "rotation"
    found = transfer.load(root)
    assert found is not None and found.chose == "tiles" and [task.name for task in found.tasks] == ["tiles"]
    page = documents(root, judge(results), missing)["report.html"]
    assert "held-out labels of the task tiles" in page and "judged on the test images of the task tiles" in page


@pytest.mark.parametrize("labelled", [True, False])
def test_a_task_without_any_score_takes_no_report_down(tmp_path: Path, labelled: bool) -> None:
    root = project_of(tmp_path / "p", labelled)
    shutil.rmtree(root / "out/metrics/tiles")
    results, missing = load_results(root)
    assert {r.task for r in results} == {None}
    found = transfer.load(root)
    assert found is not None and "Not scored on tiles yet: any encoder." in transfer.sentences(found)
    assert "Not scored on tiles yet" in documents(root, judge(results), missing)["leaderboard.md"]


def test_without_tasks_nothing_is_added(tmp_path: Path) -> None:
    root = write_project(tmp_path / "p", METHODS)
    assert transfer.load(root) is None
    results, missing = load_results(root)
    texts = documents(root, judge(results), missing)
    assert texts.keys() == {"leaderboard.csv", "leaderboard.md", "report.html"} and 'id="tasks"' not in texts["report.html"]


@pytest.mark.parametrize(
    ("names", "blocks", "says"),
    [
        (["Tiles"], {}, "run.tasks: 'Tiles' is no name"),
        (["a-b"], {}, "is no name"),
        (["eval"], {"eval": {"source": "folder", "path": "x"}}, "'eval' is taken"),
        (["tiles"], {}, "tiles has no block under tasks"),
        ([], {"tiles": {}}, "tasks.tiles is not in run.tasks"),
        (["tiles", "tiles"], {"tiles": {}}, "nothing twice"),
        (["tiles"], {"tiles": {"source": "folder"}}, "tasks.tiles.path is missing; say where the images of the task are"),
        (["tiles"], {"tiles": {"source": "folder", "path": "x", "image_size": 64}}, "tasks.tiles.image_size is 64"),
        (["tiles"], {"tiles": {"source": "folde", "path": "x"}}, "tasks.tiles.source"),
    ],
)
def test_a_wrong_task_is_told_in_one_line(names: list[str], blocks: dict[str, object], says: str) -> None:
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["run"]["tasks"], values["tasks"] = names, blocks
    with pytest.raises(ConfigError) as error:
        params.task_configs(values)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_was_found_is_said_where_more_may_not_be_recognized() -> None:
    found = transfer._leak(SimpleNamespace(name="tiles", leak=LEAK | {"otherwise": ["fit"]}))
    assert "2 are among the images that encoders are trained on" in found and found.endswith("recognized by their pixels.")
    alike = transfer._leak(SimpleNamespace(name="tiles", leak=LEAK | {"equal": 0, "examples": []}))
    assert "0 are among the images" in alike and "1 look like one" in alike and alike.endswith(": c.png.")
    blind = transfer._leak(SimpleNamespace(name="tiles", leak=LEAK | {"equal": 0, "alike": 0, "otherwise": ["fit"]}))
    assert blind.startswith("tiles and data are made square by another fit") and "are among" not in blind
