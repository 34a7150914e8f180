"""Presets: each fits the parameters, and writing one keeps the comments."""

from pathlib import Path

import pytest

from ssl_core.catalogue import BASELINES, METHODS
from tasks import preset
from tasks.runtime import edited_yaml, params
from tasks.runtime.errors import UsageError
from tests.conftest import ROOT
from tests.support.project import command, copy_project

NAMES = sorted(p.stem for p in (ROOT / "presets").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_gives_valid_parameters(shipped_copy: dict, name: str) -> None:  # type: ignore[type-arg]
    values = params.read(ROOT / f"presets/{name}.yaml")
    preset.merge(shipped_copy, values)
    params.check(shipped_copy)


def test_a_preset_keeps_the_comments_and_changes_only_what_it_names(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p")
    before = (project / "params.yaml").read_text()
    result = command(project, "tasks.preset", "tiny")
    assert result.returncode == 0, result.stderr
    assert "also set: run.methods, encoder.width, train.epochs, train.health_images" in result.stdout
    after = (project / "params.yaml").read_text()
    assert "# regularization strengths" in after and "max_train: 1000" in after
    assert params.load(project / "params.yaml")["evaluate"]["knn_k"] == params.load(ROOT / "params.yaml")["evaluate"]["knn_k"]
    assert "name: null" in after
    assert len(after.splitlines()) > 0.8 * len(before.splitlines())


def test_a_method_is_switched_on_by_removing_its_comment_sign_also_after_a_preset(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p")
    assert command(project, "tasks.preset", "cifar10").returncode == 0
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("# - ", "- "))
    assert set(params.load(file)["run"]["methods"]) == {*METHODS, *BASELINES}


def test_an_unknown_preset_names_the_nearest_or_all_there_are(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p")
    before = (project / "params.yaml").read_bytes()
    for name, said in (("tinny", "did you mean 'tiny'?"), ("zzz", "known: none, cifar10,")):
        result = command(project, "tasks.preset", name)
        assert result.returncode == 2 and f"error: preset '{name}' is unknown; {said}" in result.stderr
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("text", ["", "- a\n", "run: [\n", "<<<<<<< HEAD\nrun: 1\n=======\n", "run: {a: 1, a: 2}\n"])
@pytest.mark.parametrize("name", ["tiny", "none"])
def test_a_broken_file_is_one_line_and_stays(tmp_path: Path, text: str, name: str) -> None:
    project = copy_project(tmp_path / "p")
    (project / "params.yaml").write_text(text)
    result = command(project, "tasks.preset", name)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "params.yaml" in result.stderr, result.stderr
    assert (project / "params.yaml").read_text() == text


def values(project: Path) -> dict:  # type: ignore[type-arg]
    return params.load(project / "params.yaml")


@pytest.mark.parametrize("first", NAMES)
def test_nothing_of_an_earlier_preset_stays(tmp_path: Path, first: str) -> None:
    shipped, text = params.load(ROOT / "params.yaml"), (ROOT / "params.yaml").read_text()
    once, _, _ = preset.apply(text, first, params.read(ROOT / f"presets/{first}.yaml"))
    for second in NAMES:
        expected = params.load(ROOT / "params.yaml")
        preset.merge(expected, params.read(ROOT / f"presets/{second}.yaml"))
        twice, _, kept = preset.apply(once, second, params.read(ROOT / f"presets/{second}.yaml"))
        assert params.parse(twice, params.PARAMS) == expected and not kept and twice.count(preset.MARK) == 1
    back, changes, kept = preset.apply(twice, preset.NONE, {})
    assert params.parse(back, params.PARAMS) == shipped and back == text and not changes and not kept


def test_what_the_user_changed_stays_and_is_named(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p")  # no git repository
    file = project / "params.yaml"
    file.write_text(
        file.read_text().replace("path: data/sample", "path: my photos").replace("source: sample", "source: folder")
    )
    (project / "my photos").mkdir()
    mine = values(project)
    assert command(project, "tasks.preset", "tiny").returncode == 0
    file.write_text(file.read_text().replace("max_train: 1000", "max_train: 500"))
    result = command(project, "tasks.preset", "cifar10")
    assert result.returncode == 0, result.stderr
    said = result.stdout.splitlines()
    assert "data.path is data/sample, was my photos" in said and "data.source is torchvision, was folder" in said
    assert "changed since the last preset, and kept: data.max_train: 500" in said
    now = values(project)
    assert now["data"]["max_train"] == 500 and now["encoder"]["width"] == 24 and now["run"] == mine["run"]
    assert command(project, "tasks.preset", "none").returncode == 0
    mine["data"]["max_train"] = 500
    assert values(project) == mine


def test_a_preset_for_folders_keeps_the_folder_of_the_user(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p")
    file = project / "params.yaml"
    shipped = file.read_text()
    for mine in (shipped, shipped.replace("path: data/sample", "path: mine").replace("source: sample", "source: folder")):
        file.write_text(mine)
        assert command(project, "tasks.preset", "folder-64px").returncode == 0
        file.write_text(file.read_text().replace("path: images", "path: mine"))
        said = command(project, "tasks.preset", "folder-64px").stdout
        data = values(project)["data"]
        assert (data["source"], data["path"], data["image_size"]) == ("folder", "mine", 64) and "data.path is" not in said
    for name in ("cifar10", "folder-64px"):
        assert command(project, "tasks.preset", name).returncode == 0
    assert values(project)["data"]["path"] == "mine", "though another preset came between"
    assert command(project, "tasks.preset", "none").returncode == 0
    assert values(project) == params.parse(mine, params.PARAMS)


def test_what_is_taken_back_is_named_and_so_is_a_path_that_stays_without_its_source(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p")
    file = project / "params.yaml"
    for name in ("tiny", "none"):
        assert "taken back: data.source" not in command(project, "tasks.preset", "folder-64px").stdout
        file.write_text(file.read_text().replace("path: images", "path: mine").replace("image_size: 64", "image_size: 32"))
        said = command(project, "tasks.preset", name).stdout
        back, kept = (next(line for line in said.splitlines() if line.startswith(w)) for w in ("taken back: ", "changed since"))
        assert "data.source: sample; data.channels: 1; method." in back and "data.path" not in back and "image_size" not in back
        assert kept.endswith("kept: data.path: mine; data.image_size: 32")
        assert "warning: data.source is sample now, and data.path is mine: they may not fit" in said
        file.write_text((ROOT / "params.yaml").read_text())
    assert command(project, "tasks.preset", "cifar10").returncode == 0
    file.write_text(file.read_text().replace("path: data/sample", "path: mine"))
    assert "warning: data.source is sample now, and data.path is mine" in command(project, "tasks.preset", "none").stdout
    file.write_text((ROOT / "params.yaml").read_text())
    assert command(project, "tasks.preset", "folder-64px").returncode == 0
    file.write_text(file.read_text().replace("path: images", "path: mine"))
    said = command(project, "tasks.preset", "cifar10").stdout
    assert "data.path is data/sample, was mine" in said and "kept" not in said
    file.write_text((ROOT / "params.yaml").read_text())
    assert command(project, "tasks.preset", "tiny").returncode == 0
    said = command(project, "tasks.preset", "none").stdout
    assert "taken back: run.methods: [" in said and "data.max_train: null" in said and "warning" not in said


def test_a_damaged_mark_is_one_line_and_changes_nothing(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text() + preset.MARK + "tiny {oh"
    with pytest.raises(UsageError, match="remove it to keep all values"):
        preset.apply(text, "tiny", {})


def test_methods_that_are_commented_out_come_back() -> None:
    text = (ROOT / "params.yaml").read_text()
    once, _, _ = preset.apply(text, "evidence", params.read(ROOT / "presets/evidence.yaml"))
    twice, _, _ = preset.apply(once, "tiny", params.read(ROOT / "presets/tiny.yaml"))
    back, _, _ = preset.apply(twice, preset.NONE, {})
    assert "  # - simsiam\n" in back and preset.items(back, "run.methods") == preset.items(text, "run.methods") != ""


def test_the_row_that_a_run_added_does_not_keep_the_list_of_a_preset() -> None:
    text = (ROOT / "params.yaml").read_text()
    once, _, _ = preset.apply(text, "tiny", params.read(ROOT / "presets/tiny.yaml"))
    added = edited_yaml.edit(once, lambda document: document["run"]["methods"].append("start"))
    back, _, kept = preset.apply(added, preset.NONE, {})
    assert not kept and params.parse(back, params.PARAMS)["run"] == params.parse(text, params.PARAMS)["run"]


def test_lines_end_as_before_and_a_link_stays_one(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p")
    file, real = project / "params.yaml", tmp_path / "mine.yaml"
    real.write_bytes(before := file.read_bytes().replace(b"\n", b"\r\n"))
    file.unlink()
    file.symlink_to(real)
    assert command(project, "tasks.preset", "tiny").returncode == 0
    assert file.is_symlink() and values(project)["data"]["max_train"] == 1000
    assert real.read_bytes().count(b"\n") == real.read_bytes().count(b"\r\n") > 100
    assert command(project, "tasks.preset", "none").returncode == 0
    assert real.read_bytes() == before
