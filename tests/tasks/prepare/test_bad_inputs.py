"""Unusable images, folders and archives: named in one line, the right exit code, nothing half-written, nothing hangs."""

import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from ssl_core.config import ConfigError
from tasks.prepare import decoding
from tasks.prepare.preparation import prepare
from tasks.prepare.workers import Job, decode_all
from tasks.runtime import dataset, files, params
from tasks.runtime.errors import DataError, EnvironmentFault, UsageError
from tests.support import corpus, project
from tests.tasks.prepare.test_prepare import class_folders, config, run, tree, write

BAD = corpus.unusable()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(tmp_path: Path, chosen: object, match: str) -> str:
    """Prepare must raise DataError with one line and leave nothing behind."""
    with pytest.raises(DataError, match=match) as error:
        prepare(chosen, tmp_path / "out" / "prepared")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("name", sorted(BAD))
@pytest.mark.fault(
    "F74",
    "I1",
    "I2",
    "I3",
    "I4",
    "I5",
    "I7",
    "I8",
    "I9",
    "I10",
    "I12",
    "I13",
    "I26",
    "I27",
    "I36",
    "I37",
    "I39",
    "I40",
    "I41",
    "I42",
    "I43",
    "I44",
    "I45",
    "I46",
)
def test_an_unusable_file_has_a_reason(name: str) -> None:
    with pytest.raises(decoding.BadImage) as error:
        decoding.decode(BAD[name], name, 16, 3)
    assert str(error.value) and " at 0x" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.fault("I1", "I2", "I3", "I4", "I5")
def test_bad_files_stop_the_stage_or_are_quarantined_as_allowed(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", class_folders(4) | {f"cat/{name}": data for name, data in BAD.items()})
    message = refused(tmp_path, config(folder, max_bad=len(BAD) - 1), f"{len(BAD)} of {12 + len(BAD)} files cannot be used")
    assert "data.max_bad" in message and "bit-flip.png" in message and "23 more" in message
    listed = files.read_json(Path(".ssl/unusable.json"))
    data = run(tmp_path, config(folder, max_bad=len(BAD)))
    assert data.audit["quarantined"] == listed and not Path(".ssl/unusable.json").exists()
    assert f"{listed[0]['file']}: {listed[0]['reason']}" in data.audit["warnings"][0]
    assert {q["file"] for q in listed} == {f"cat/{name}" for name in BAD} and all(q["reason"] for q in listed)
    assert len(data.train_images) + len(data.test_images) == 12 and not any(Path(n).name in BAD for n in data.train_files)


def test_names_that_sha256sum_escapes_are_read(tmp_path: Path) -> None:
    pictures = class_folders(4) | {"cat/a\\nb.png": corpus.encoded(corpus.picture(77), "PNG")}
    folder = write(tmp_path / "in", pictures)
    sums = subprocess.run(["sha256sum", *sorted(pictures)], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert "\n\\" in f"\n{sums}"
    (folder / "SHA256SUMS").write_text(sums.replace(files.sha256(folder / "cat/a\\nb.png"), "0" * 64))
    data = run(tmp_path, config(folder, max_bad=1))
    assert [bad["reason"] for bad in data.audit["quarantined"]] == ["differs from its hash in SHA256SUMS"]


@pytest.mark.fault("I11")
def test_damage_that_decodes_is_found_by_its_hash(tmp_path: Path) -> None:
    pictures = class_folders(4)
    photo = bytearray(corpus.encoded(corpus.picture(77, 128), "JPEG", quality=95))
    pictures["cat/photo.jpg"] = bytes(photo)
    folder = write(tmp_path / "in", pictures)
    sums = "".join(f"{files.sha256(folder / n)}  ./{n}\n" for n in sorted(pictures))
    (folder / "SHA256SUMS").write_text(sums)
    assert run(tmp_path, config(folder)).audit["quarantined"] == []
    middle = len(photo) // 2
    photo[middle] ^= 1
    (folder / "cat" / "photo.jpg").write_bytes(bytes(photo))
    decoding.decode(bytes(photo), "photo.jpg", 16, 3)  # no decoder notices
    (folder / "fish" / "0.png").unlink()
    data = run(tmp_path, config(folder, max_bad=2), "second")
    assert [q["file"] for q in data.audit["quarantined"]] == ["cat/photo.jpg", "fish/0.png"]
    (folder / "SHA256SUMS").write_text("not a hash\n")
    refused(tmp_path, config(folder), "line 1 of SHA256SUMS")


def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int = 60) -> None:
    """Let the real worker die of a segmentation fault on files named killer, and stall on files named sleeper."""
    source = Path(decoding.__file__).read_text().replace("SECONDS = 60", f"SECONDS = {seconds}")
    trap = '    if "killer" in name:\n        signal.raise_signal(signal.SIGSEGV)\n'
    trap += '    if "sleeper" in name:\n        signal.pause()\n'
    start = "    if not data:\n"
    here, worker = "Path(__file__).parents[2]", tmp_path / "worker.py"
    assert start in source and here in source
    source = source.replace(here, f"Path({str(Path(decoding.__file__).parents[2])!r})")
    worker.write_text(source.replace(start, trap + start, 1))
    monkeypatch.setattr(decoding, "__file__", str(worker))


@pytest.mark.fault("F16", "I12")
def test_a_file_that_kills_or_stalls_the_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deadly(tmp_path, monkeypatch, seconds=1)
    names = [f"{i}.png" for i in range(150)]
    names[3], names[70], names[149] = "killer-1.png", "sleeper.png", "killer-2.png"
    data = corpus.encoded(corpus.picture())
    jobs = (Job(i, name, data) for i, name in enumerate(names))
    answers = {done.row: done for done in decode_all(jobs, 16, 3, workers=2)}
    assert sorted(answers) == list(range(150))
    bad = {names[row]: done.bad for row, done in answers.items() if done.bad}
    assert set(bad) == {"killer-1.png", "sleeper.png", "killer-2.png"}
    assert "signal 11" in bad["killer-1.png"] and "signal 14" in bad["sleeper.png"]


def test_a_decoder_that_does_not_start_is_an_environment_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module")
    monkeypatch.setattr(decoding, "__file__", str(tmp_path / "broken.py"))
    with pytest.raises(EnvironmentFault, match="does not start"):
        list(decode_all(iter([Job(0, "x", b"x")]), 16, 3, workers=1))


def test_stopping_early_ends_the_workers() -> None:
    before = psutil.Process().children()  # what other tests keep for later: a server, a process to fork from
    endless = (Job(i, "x.png", corpus.encoded(corpus.picture())) for i in range(10**9))
    answers = decode_all(endless, 16, 3, workers=2)
    next(answers)
    assert len(psutil.Process().children()) == len(before) + 2
    answers.close()
    assert psutil.Process().children() == before


# ---------------------------------------------------------------------- folders


@pytest.mark.fault("F33", "I48", "I50", "I51")
def test_links_pipes_and_sockets_are_named_and_never_opened(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", class_folders(4))
    write(tmp_path / "outside", {"secret.png": corpus.encoded(corpus.picture(5))})
    os.mkfifo(folder / "cat" / "pipe.jpg")
    (folder / "cat" / "nowhere.png").symlink_to("gone.png")
    (folder / "cat" / "passwd.png").symlink_to("/etc/passwd")
    (folder / "cat" / "out").symlink_to(tmp_path / "outside")
    (folder / "cat" / "inside.png").symlink_to("../bird/0.png")
    (folder / "cat" / "loop").symlink_to(folder)
    (folder / "cat" / "self.png").symlink_to("self.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "cat" / "socket.png"))
        data = run(tmp_path, config(folder, max_bad=6))
    reasons = {q["file"]: q["reason"] for q in data.audit["quarantined"]}
    assert set(reasons) == {f"cat/{n}" for n in ("pipe.jpg", "nowhere.png", "passwd.png", "out", "self.png", "socket.png")}
    assert "out of the folder" in reasons["cat/passwd.png"] and "nowhere" in reasons["cat/nowhere.png"]
    assert (
        data.audit["ignored"]["count"] == 1 and data.audit["conflicts"]["count"] == 1
    )  # the link inside: one image, two labels


@pytest.mark.fault("F33")
def test_a_link_swapped_in_after_the_look_is_not_followed(tmp_path: Path) -> None:
    from tasks.prepare.sources.folder import FolderSource

    folder = write(tmp_path / "in", class_folders(2))
    source = FolderSource(folder)
    (folder / "cat" / "0.png").unlink()
    (folder / "cat" / "0.png").symlink_to("/etc/passwd")
    (folder / "cat" / "1.png").unlink()
    os.mkfifo(folder / "cat" / "1.png")
    found = {source.items[row].name: content for row, content in source.read(range(len(source.items)))}
    assert isinstance(found["cat/0.png"], decoding.BadImage) and isinstance(found["cat/1.png"], decoding.BadImage)


@pytest.mark.parametrize(
    ("number", "set_aside"), [(errno.EACCES, True), (errno.EIO, True), (errno.EMFILE, False), (errno.ENOMEM, False)]
)
@pytest.mark.fault("I47", "F23", "F31")
def test_a_file_that_cannot_be_read_is_set_aside_and_a_machine_that_lacks_something_is_not_its_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, set_aside: bool
) -> None:
    folder, plain = write(tmp_path / "in", class_folders(6)), os.open

    def opens(path: Any, *args: Any, **kwargs: Any) -> int:
        if Path(path) == folder / "cat/1.png":
            raise OSError(number, os.strerror(number), str(path))
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", opens)
    if set_aside:
        (bad,) = run(tmp_path, config(folder, max_bad=1)).audit["quarantined"]
        assert bad == {"file": "cat/1.png", "reason": f"cannot be read ({os.strerror(number)})"}
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            run(tmp_path, config(folder, max_bad=1))


FOLDERS: dict[str, tuple[Callable[[], dict[str, bytes]], str]] = {
    "nothing": (dict, "holds no images"),
    "only notes": (lambda: {"a/x.txt": b"x", ".y.png": b"y"}, "holds no images"),
    "one image": (lambda: {"a.png": corpus.encoded(corpus.picture())}, "at least 2"),
    "one class": (lambda: {k: v for k, v in class_folders().items() if k.startswith("cat")}, "one class only"),
    "test alone": (lambda: class_folders(2, "test/"), "no train folder"),
    "class only in test": (lambda: {k: v for k, v in tree().items() if "train/fish" not in k}, "'fish' has no images in train"),
    "class only in train": (lambda: {k: v for k, v in tree().items() if "test/fish" not in k}, "'fish' has no images in test"),
    "one image in all classes but one": (
        lambda: {f"{name}/0.png": corpus.encoded(corpus.picture(n)) for n, name in enumerate("abc")} | {"a/1.png": b"x"},
        "2 classes have one image, which cannot be in both splits: 'b', 'c'; add images",
    ),
    "only bad images": (lambda: {f"{i}.png": b"" for i in range(4)}, "4 of 4 files"),
    "a class leaks": (
        lambda: tree() | {"train/new/x.png": BLACK, "test/new/x.png": BLACK},
        "'new' has no images left in train",
    ),
    "one color": (lambda: {f"{i}.png": BLACK for i in range(4)}, "single color"),
}


def test_a_pointer_of_git_lfs_is_called_so(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 12345\n"
    folder = write(tmp_path / "in", class_folders() | {"cat/x.png": pointer})
    (bad,) = run(tmp_path, config(folder, max_bad=1)).audit["quarantined"]
    assert bad["reason"] == "a pointer of Git LFS, not the image; git lfs pull fetches it"


BLACK = corpus.encoded(corpus.Image.new("RGB", (24, 24)))


@pytest.mark.parametrize("case", FOLDERS)
@pytest.mark.fault("I54", "I55")
def test_a_folder_that_cannot_answer_the_question_is_rejected(tmp_path: Path, case: str) -> None:
    make, match = FOLDERS[case]
    (tmp_path / "in").mkdir()
    refused(tmp_path, config(write(tmp_path / "in", make())), match)


def test_a_test_split_in_which_a_class_has_none_of_the_images_that_are_left_is_rejected(tmp_path: Path) -> None:
    refused(tmp_path, config(write(tmp_path / "in", tree()), max_test=2), "class 'fish' has no images left in test")


@pytest.mark.fault("I53")
def test_an_empty_class_folder_is_rejected(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", class_folders(4))
    (folder / "empty").mkdir()
    refused(tmp_path, config(folder), "1 class folder holds no images: 'empty' in train")


@pytest.mark.fault("F34")
def test_class_names_that_look_alike_are_told(tmp_path: Path) -> None:
    twins = {
        f"{c}/{i}.png": corpus.encoded(corpus.picture(30 * n + i))
        for n, c in enumerate(("\u00e9", "e\u0301"))
        for i in range(4)
    }
    assert any("differ only" in w for w in run(tmp_path, config(write(tmp_path / "in", twins))).audit["warnings"])


def test_impossible_settings_are_named(tmp_path: Path, shipped: dict[str, Any]) -> None:
    folder = write(tmp_path / "in", class_folders(2))
    wrong = {
        "image_size": 4,
        "store_size": 16,
        "channels": 17,
        "bits": 12,
        "fit": "squash",
        "test_fraction": 1.0,
        "holdout_fraction": -0.1,
        "max_train": 1,
        "max_bad": -1,
        "seed": -1,
    }
    for key, value in wrong.items():
        with pytest.raises(ConfigError, match=f"data.{key} is"):
            params.data_config({"data": shipped["data"] | {key: value}})
    for key in ("max_train", "max_test", "max_bad", "seed"):
        with pytest.raises(ConfigError, match=f"data.{key} is 2147483648; it must be a whole number from"):
            params.data_config({"data": shipped["data"] | {key: 2**31}})
    with pytest.raises(ConfigError, match="did you mean 'archive'"):
        params.data_config({"data": shipped["data"] | {"source": "archiv"}})
    with pytest.raises(ConfigError, match="did you mean 'CIFAR10'"):
        prepare(config("data/sample", "torchvision", name="CIFAR-10"), tmp_path / "out")
    for source, path, match in (
        ("folder", folder / "gone", "does not exist"),
        ("archive", folder, "not a file"),
        ("folder", folder / "cat" / "0.png", "not a folder"),
    ):
        with pytest.raises(UsageError, match=match):
            prepare(config(path, source), tmp_path / "out")


@pytest.mark.fault("F21")
def test_a_disk_that_is_too_small_is_seen_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "in", class_folders(2))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(EnvironmentFault, match="free some"):
        prepare(config(folder), tmp_path / "out")


# ---------------------------------------------------------------------- as a user sees it


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project."""
    return project.copy_project(tmp_path_factory.mktemp("project"))


CASES = {
    "missing archive": ({"source": "archive", "path": "gone.tar.xz"}, 2, "gone.tar.xz does not exist"),
    "empty folder": ({"source": "folder", "path": "empty"}, 3, "holds no images"),
    "truncated image": ({"source": "folder", "path": "damaged"}, 3, "'cat/half.png': damaged"),
    "no network": ({"source": "torchvision", "name": "CIFAR10"}, 4, "cannot be downloaded"),
    "damaged sample": ({"source": "sample"}, 6, "git checkout data/sample"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_command_says_one_line_and_the_right_code(home: Path, case: str) -> None:
    values, code, text = CASES[case]
    (home / "empty").mkdir(exist_ok=True)
    write(home / "damaged", class_folders(3) | {"cat/half.png": BAD["half.png"]})
    if case == "damaged sample":
        sample = next((home / "data" / "sample").glob("*.xz"))
        sample.write_bytes(corpus.flipped(sample.read_bytes(), 1000))
    project.set_params(home, {"data": {"path": "data/sample", "name": None} | values})
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = project.command(home, "tasks.prepare", XDG_CACHE_HOME=str(home / "cache"), HOME=str(home), **closed)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("prepare: reading")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1 and lines[0].startswith("error: ") and text in lines[0]
    assert not (home / "data" / "prepared").exists() and not list(home.rglob("*.npy"))


def test_the_command_publishes_again_when_the_users_folder_changed(home: Path) -> None:
    folder = write(home / "mine", class_folders(4))
    project.set_params(home, {"data": {"source": "folder", "path": "mine", "name": None}})
    assert project.command(home, "tasks.prepare").returncode == 0
    assert len(dataset.load(home / "data" / "prepared").train_images) == 8
    write(
        folder,
        {
            "cat/new.png": corpus.encoded(corpus.picture(99)),
            "dog/1.png": BLACK,
            "dog/2.png": corpus.encoded(corpus.picture(98)),
        },
    )
    assert project.command(home, "tasks.prepare").returncode == 0
    data = dataset.load(home / "data" / "prepared")
    assert data.meta["classes"] == ["bird", "cat", "dog", "fish"] and len(data.train_images) + len(data.test_images) == 15
