"""Links to images: into this project's DVC cache they are read, out of the folder when asked for; the rest is named."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tasks.prepare.preparation import prepare
from tasks.runtime import audit
from tasks.runtime.errors import DataError
from tests.support import project
from tests.tasks.prepare.test_prepare import class_folders, config, run, write


def linked(tmp_path: Path, pictures: dict[str, bytes]) -> Path:
    """A folder of links to ``pictures``, which lie elsewhere."""
    store = write(tmp_path / "store", pictures)
    for name in pictures:
        link = tmp_path / "in" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(store / name)
    return tmp_path / "in"


@pytest.mark.fault("F33", "I50")
def test_links_out_are_refused_by_count_and_name_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # DVC manages nothing here
    folder = linked(tmp_path, class_folders(4))
    with pytest.raises(
        DataError, match=r"no images that can be used; 12 refused: 'bird/0\.png': a link that leads out"
    ) as error:
        prepare(config(folder), tmp_path / "out")
    assert "data.follow_links: true" in str(error.value)
    data = run(tmp_path, config(folder, follow_links=True))
    assert len(data.train_files) + len(data.test_files) == 12 and data.meta["classes"] == ["bird", "cat", "fish"]


def test_a_class_that_is_lacking_because_its_link_was_refused_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = {name: data for name, data in class_folders(4).items() if not name.startswith("fish")}
    store, folder = write(tmp_path / "store", pictures), write(tmp_path / "in", pictures)
    shutil.rmtree(folder / "cat")
    (folder / "cat").symlink_to(store / "cat")
    with pytest.raises(DataError, match=r"one class only \('bird'\).*; 1 refused: 'cat': a link that leads out .*follow_links"):
        prepare(config(folder), tmp_path / "out")
    assert run(tmp_path, config(folder, follow_links=True)).meta["classes"] == ["bird", "cat"]


def test_linked_lists_and_hashes_are_read_where_images_are_and_refused_links_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = class_folders(4)
    listed = "path,label\n" + "".join(f"{name},{name.partition('/')[0]}\n" for name in pictures)
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in pictures.items())
    folder = linked(tmp_path, pictures | {"list.csv": listed.encode(), "SHA256SUMS": sums.encode()})
    for source in ("table", "folder"):
        data = run(tmp_path, config(folder, source, follow_links=True))
        assert data.meta["classes"] == ["bird", "cat", "fish"]
    (folder / "list.csv").unlink()
    write(folder, {"list.csv": listed.encode()})
    with pytest.raises(DataError, match=r"none of the 12 .*; 12 refused: 'bird/0.png': a link that leads out .*follow_links"):
        prepare(config(folder, "table"), tmp_path / "out")
    (folder / "bird/0.png").unlink()
    (folder / "bird/0.png").symlink_to("/nonexistent")
    data = run(tmp_path, config(folder, follow_links=True, max_bad=1))
    assert data.audit["quarantined"][0]["reason"].startswith("a link that leads nowhere")


@pytest.mark.fault("F33", "I49")
def test_linked_class_folders_are_read_when_asked_for_and_loops_end(tmp_path: Path) -> None:
    store = write(tmp_path / "store", class_folders(4))
    (tmp_path / "in").mkdir()
    for name in ("bird", "cat", "fish"):
        (tmp_path / "in" / name).symlink_to(store / name)
    (store / "cat" / "up").symlink_to(store)
    (store / "bird" / "home").symlink_to(tmp_path / "in")
    (store / "fish" / "again").symlink_to(store / "fish")
    data = run(tmp_path, config(tmp_path / "in", follow_links=True))
    assert data.meta["classes"] == ["bird", "cat", "fish"]
    assert "linked folders are read, 'bird' first, but DVC does not look into them" in data.audit["warnings"][0]
    assert audit.unwatched(data.path) == data.audit["warnings"][0] and not audit.unwatched(tmp_path)
    names = data.train_files + data.test_files
    assert {n for n in names if n.count("/") == 1} == set(class_folders(4))
    assert all(n.startswith("cat/up/") for n in names if n.count("/") > 1)  # a class linked below another is read there too


def test_links_up_and_sideways_are_told_apart_and_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "around" / "in", class_folders(4))
    (folder / "cat" / "up").symlink_to(tmp_path / "around")
    (folder / "cat" / "side").symlink_to(folder / "bird")
    said = run(tmp_path, config(folder, follow_links=True)).audit["warnings"]
    assert "1 link to folders around their own, not followed: 'cat/up'" in said
    assert "1 link to folders that are read anyway, not followed: 'cat/side'" in said


def test_what_dvc_add_links_into_the_cache_is_read(tmp_path: Path) -> None:
    home = project.copy_project(tmp_path / "p", git=True)
    write(home / "mine", class_folders(4))

    def dvc(*arguments: str) -> str:
        done = subprocess.run(["dvc", *arguments], cwd=home, env=project.environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    dvc("config", "cache.type", "symlink")
    dvc("add", "mine")
    links = [p for p in (home / "mine").rglob("*.png") if p.is_symlink()]
    assert len(links) == 12 and all(".dvc/cache" in os.path.realpath(p) for p in links)
    (home / "mine" / "cat" / "secret.png").symlink_to("/etc/passwd")
    project.set_params(home, {"data": {"source": "folder", "path": "mine", "image_size": 16, "max_bad": 1}})
    said = dvc("repro", "prepare")
    assert "mine: 3 classes (bird, cat, fish)" in said and "1 file could not be used" in said
