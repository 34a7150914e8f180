"""``data.more``: several folders that are read as one, each of which DVC watches."""

import os
import subprocess
from pathlib import Path

import pytest

from ssl_core.config import ConfigError
from tasks.dvc import graph
from tasks.prepare.preparation import prepare
from tasks.runtime import files
from tasks.runtime.errors import DataError, UsageError
from tasks.runtime.params import data_config, task_configs
from tests.support import corpus, project
from tests.tasks.prepare.test_prepare import class_folders, config, run, tree, write


def test_what_lies_in_the_same_place_of_several_folders_is_alike(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", class_folders(6)), write(tmp_path / "two", class_folders(4, seed=1))
    write(two, {f"owl/{n}.png": corpus.encoded(corpus.picture(5000 + n)) for n in range(8)} | {"cat/.hidden.png": b"x"})
    data = run(tmp_path, config(one, more={"y26": str(two)}))
    assert data.meta["classes"] == ["bird", "cat", "fish", "owl"] and data.meta["source"] == "one, two"
    every = data.train_files + data.test_files
    assert len(every) == 6 * 3 + 4 * 3 + 8 and {"cat/5.png", "cat/y26:3.png", "owl/y26:7.png"} <= set(every)
    alone = run(tmp_path, config(two), "alone")
    pixels = {name: image.tobytes() for name, image in zip(data.train_files, data.train_images, strict=True)}
    for name, image in zip(alone.train_files, alone.train_images, strict=True):
        assert pixels.get(name.replace("/", "/y26:"), image.tobytes()) == image.tobytes()


def test_each_folder_may_hold_one_class_or_one_split(tmp_path: Path) -> None:
    for name in ("bird", "cat"):
        write(tmp_path / name, {path: data for path, data in class_folders(4).items() if path.startswith(name)})
    data = run(tmp_path, config(tmp_path / "bird", more={"cats": str(tmp_path / "cat")}))
    assert data.meta["classes"] == ["bird", "cat"]
    for split in ("train", "test"):
        write(tmp_path / split, {path: data for path, data in tree().items() if path.startswith(split)})
    data = run(tmp_path, config(tmp_path / "train", more={"later": str(tmp_path / "test")}), "splits")
    assert len(data.train_files) == 18 and len(data.test_files) == 6 and "test/cat/later:0.png" in data.test_files


def test_hashes_and_refusals_name_the_folder(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", class_folders(4)), write(tmp_path / "two", class_folders(4, seed=1))
    (two / "SHA256SUMS").write_text(f"{'0' * 64}  cat/0.png\n")
    (two / "cat/away.png").symlink_to("/etc/passwd")
    prepare(config(one, more={"b": str(two)}, max_bad=2), tmp_path / "out")
    bad = {entry["file"]: entry["reason"] for entry in files.read_json(tmp_path / "out" / "audit.json")["quarantined"]}
    assert set(bad) == {"cat/b:0.png", "cat/b:away.png"} and bad["cat/b:0.png"] == "differs from its hash in SHA256SUMS"
    with pytest.raises(DataError, match=r"2 of 25 files cannot be used .*'cat/b:0\.png': differs"):
        prepare(config(one, more={"b": str(two)}), tmp_path / "again")


def test_each_folder_is_looked_through_and_told_by_its_name(tmp_path: Path) -> None:
    one = write(tmp_path / "one", class_folders(4, "dataset/images/"))
    two = write(tmp_path / "two", class_folders(4, seed=1) | {".old/x.png": b"x"})
    (one / "SHA256SUMS").write_text(f"{'0' * 64}  dataset/images/cat/1.png\n")
    data = run(tmp_path, config(one, more={"b": str(two)}, max_bad=1))
    assert data.meta["classes"] == ["bird", "cat", "fish"] and data.audit["quarantined"][0]["file"] == "cat/1.png"
    said = " ".join(data.audit["warnings"])
    assert "all images lie in dataset/images" in said and "b: 1 image in a hidden folder is not used" in said


def test_a_class_of_the_first_folder_stays_one_in_the_others_and_none_is_left_out(tmp_path: Path) -> None:
    one = write(tmp_path / "one", class_folders(4))
    two = write(tmp_path / "two", {f"cat/day{i}/0.png": corpus.encoded(corpus.picture(6000 + i)) for i in range(4)})
    assert run(tmp_path, config(one, more={"b": str(two)})).meta["classes"] == ["bird", "cat", "fish"]
    split = write(tmp_path / "split", tree())
    for path, more, key in ((split, one, r"data\.more\.b"), (one, split, r"data\.path")):
        with pytest.raises(DataError, match=f"{key}: none of its images is used beside the others; give all of them"):
            prepare(config(path, more={"b": str(more)}), tmp_path / "x")


def test_a_folder_without_images_or_in_another_one_or_with_their_names_is_refused(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", class_folders(4)), write(tmp_path / "two", class_folders(4, seed=1))
    write(tmp_path / "disk", {"x.txt": b"x"})
    with pytest.raises(DataError, match=r"data\.more\.b: .*/disk holds no images; is its disk there\?"):
        prepare(config(one, more={"b": str(tmp_path / "disk")}), tmp_path / "out")
    (tmp_path / "link").symlink_to(one)
    for inside in (one, one / "cat", tmp_path, tmp_path / "link"):
        with pytest.raises(UsageError, match=r"data\.more\.b: .* hold the same images; name each folder once"):
            prepare(config(one, more={"b": str(inside)}), tmp_path / "out")
    write(one, {"cat/b:0.png": b"x"})
    with pytest.raises(DataError, match=r"data\.more\.b: an image is called 'cat/b:0\.png' already"):
        prepare(config(one, more={"b": str(two)}), tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"source": "table", "more": {"b": "two"}}, "data.more is of source: folder; source: table is one path"),
        ({"source": "folder", "more": {"B c": "two"}}, "data.more: 'B c' is no name"),
        ({"source": "folder", "more": None}, "data.more is None; it must be a mapping"),
        ({"source": "folder", "more": ["two"]}, r"data.more is \['two'\]; it must be a mapping"),
        ({"source": "folder", "more": {"b": 1}}, "data.more.b is 1"),
    ],
)
def test_what_data_more_cannot_be_is_named(values: dict[str, object], said: str, root: Path) -> None:
    shipped = graph.read_params(root)
    with pytest.raises(ConfigError, match=said):
        data_config(shipped | {"data": shipped["data"] | values})


def test_a_task_is_one_folder(root: Path) -> None:
    values = graph.read_params(root)
    values["run"]["tasks"], values["tasks"] = ["t"], {"t": {"source": "folder", "path": "x", "more": {"b": "two"}}}
    with pytest.raises(ConfigError, match=r"tasks\.t\.more: a task is one folder"):
        task_configs(values)


def test_dvc_watches_every_folder(tmp_path: Path) -> None:
    home = project.copy_project(tmp_path / "p", git=True)
    write(home / "one", class_folders(4))
    write(home / "two", class_folders(4, seed=1))
    project.set_params(home, {"data": {"source": "folder", "path": "one", "more": {"b": "two"}, "image_size": 16}})

    def repro() -> str:
        done = subprocess.run(["dvc", "repro", "prepare"], cwd=home, env=project.environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "Running stage 'prepare_more@b'" in (said := repro()) and "one: 3 classes" in said
    assert "Running stage" not in repro()
    write(home / "two", {"cat/new.png": corpus.encoded(corpus.picture(9000))})
    assert [stage.name for stage in graph.plan(home) if stage.stale][:2] == ["prepare_more@b", "prepare"]
    assert "Running stage 'prepare'" in repro()
    names = [(home / f"data/prepared/{split}_files.txt").read_text() for split in ("train", "test")]
    assert "cat/b:new.png" in "".join(names)
    image = home / "two/bird/of_one_size.bmp"
    for number in range(2):  # of the same size and time; DVC looks again, for it is another file
        (tmp_path / "x").write_bytes(corpus.encoded(corpus.picture(9200 + number), "BMP"))
        os.utime(tmp_path / "x", (10**9, 10**9))
        (tmp_path / "x").replace(image)
        assert "Running stage 'prepare'" in repro()
    before = (home / "data/prepared/train_images.npy").read_bytes()
    for number in range(2):  # of links to files the target counts: one of the further folder, then one of the first
        link = home / ("two", "one")[number] / "cat/link.png"
        write(tmp_path, {"a.png": corpus.encoded(corpus.picture(9100)), "b.png": corpus.encoded(corpus.picture(9101))})
        link.symlink_to(tmp_path / "a.png")
        project.set_params(home, {"data": {"follow_links": True}})
        repro()
        link.unlink()
        link.symlink_to(tmp_path / "b.png")
        assert "Running stage 'prepare'" in repro()
        assert (home / "data/prepared/train_images.npy").read_bytes() != before
        before = (home / "data/prepared/train_images.npy").read_bytes()
    project.set_params(home, {"data": {"more": {"c": "one/cat"}}})
    with pytest.raises(UsageError, match=r"data\.more\.c: .*one/cat and data\.path, .*one, hold the same images"):
        graph.plan(home)
