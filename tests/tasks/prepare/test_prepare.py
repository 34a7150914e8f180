"""prepare: the arrays, splits and audit it makes of usable images."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from tasks.prepare import decoding
from tasks.prepare.layout import Item
from tasks.prepare.preparation import prepare
from tasks.prepare.sources import sample, torchvision
from tasks.prepare.splits import HOLDOUT, by_name, held_out, places, stratified
from tasks.runtime import dataset, files
from tasks.runtime.errors import IntegrityError
from tasks.runtime.params import DataConfig
from tests.support import corpus

CONFIG = DataConfig("folder", None, "", 16, 3, None, False, None, None, 0.25, 0.1, 0, True, 0)
CLASSES = ("bird", "cat", "fish")


def config(path: Path | str, source: str = "folder", **changes: Any) -> DataConfig:
    """The data section of these tests."""
    return dataclasses.replace(CONFIG, path=str(path), source=source, **changes)


class Prepared:
    """What prepare wrote."""

    def __init__(self, path: Path):
        files.verify(path)
        self.path = path
        self.meta, self.audit = (files.read_json(path / f"{n}.json") for n in ("meta", "audit"))
        for name in ("train_images", "train_labels", "train_holdout", "test_images", "test_labels"):
            setattr(self, name, np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False))
        self.train_files, self.test_files = (
            [json.loads(line) for line in (path / f"{s}_files.txt").read_text().splitlines()] for s in ("train", "test")
        )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def run(tmp_path: Path, chosen: DataConfig, name: str = "prepared") -> Prepared:
    """Prepare and open."""
    prepare(chosen, tmp_path / name)
    return Prepared(tmp_path / name)


def write(root: Path, pictures: dict[str, bytes]) -> Path:
    """Files in a folder."""
    for name, data in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def class_folders(per_class: int = 8, prefix: str = "", seed: int = 0) -> dict[str, bytes]:
    """``CLASS/n.png`` with different pictures."""
    numbers = enumerate((c, i) for c in CLASSES for i in range(per_class))
    return {f"{prefix}{c}/{i}.png": corpus.encoded(corpus.picture(1000 * seed + n)) for n, (c, i) in numbers}


def tree() -> dict[str, bytes]:
    """train/ and test/ with classes."""
    return class_folders(6, "train/") | class_folders(2, "test/", seed=1)


def digest(path: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    return {p.relative_to(path).as_posix(): files.sha256(p) for p in sorted(path.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------------- sources


def test_the_sample_is_balanced_and_sealed(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    data = run(tmp_path, config("data/sample", "sample", image_size=28, channels=1))
    assert data.train_images.shape == (10_000, 1, 28, 28) and data.test_images.shape == (2_000, 1, 28, 28)
    assert np.bincount(data.train_labels).tolist() == [1000] * 10 and np.bincount(data.test_labels).tolist() == [200] * 10
    assert np.bincount(data.train_labels[data.train_holdout]).tolist() == [100] * 10
    pixels = data.train_images[:].astype(np.float64) / 255
    assert data.meta["mean"] == pytest.approx([pixels.mean()]) and data.meta["std"] == pytest.approx([pixels.std()])
    assert data.meta["license"].startswith("MIT")


def test_a_damaged_sample_is_refused(tmp_path: Path, root: Path) -> None:
    shutil.copytree(root / "data" / "sample", tmp_path / "sample")
    path = next((tmp_path / "sample").glob("*.xz"))
    path.write_bytes(corpus.flipped(path.read_bytes(), 100_000))
    with pytest.raises(IntegrityError, match="git checkout"):
        sample.read_sample(tmp_path / "sample")


@pytest.mark.fault("R1")
def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "in", class_folders(100) | {"cat/empty.png": b"", "cat/copy.png": corpus.encoded(corpus.picture(0))}
    )
    for name in ("one", "two"):  # enough files for several workers, which finish in any order
        run(tmp_path, config(folder, max_bad=1), name)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_class_folders_are_split_by_class_and_by_seed(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", class_folders(8))
    data = run(tmp_path, config(folder))
    assert data.meta["classes"] == list(CLASSES)
    tested = np.bincount(data.test_labels)
    assert tested.tolist() == [3, 2, 1] and (tested + np.bincount(data.train_labels)).tolist() == [8, 8, 8]
    for name, label, pixels in zip(data.train_files, data.train_labels, data.train_images, strict=True):
        assert name.split("/")[0] == CLASSES[label]
        expected, _ = decoding.decode((folder / name).read_bytes(), name, 16, 3)
        assert pixels.transpose(1, 2, 0).tobytes() == expected
    other = run(tmp_path, config(folder, seed=1), "other")
    assert set(other.test_files) != set(data.test_files)


def test_an_image_keeps_its_side_when_others_come_and_go_and_the_folder_moves(tmp_path: Path) -> None:
    before = run(tmp_path, config(write(tmp_path / "w48", class_folders(20))), "before")
    moved = write(tmp_path / "elsewhere", class_folders(20))
    new = {
        f"{c}/new {i}.png": corpus.encoded(corpus.picture(5000 + 50 * n + i)) for n, c in enumerate(CLASSES) for i in range(30)
    }
    (moved / "cat/3.png").unlink()
    after = run(tmp_path, config(write(moved, new)), "after")
    gone = {"cat/3.png"}
    assert set(before.test_files) - gone == set(after.test_files) - set(new)
    assert set(before.train_files) - gone == set(after.train_files) - set(new)
    more = run(tmp_path, config(tmp_path / "w48", more={"w49": str(write(tmp_path / "w49", new))}), "more")
    assert set(before.test_files) <= set(more.test_files) and set(before.train_files) <= set(more.train_files)


def test_a_share_by_names_is_near_what_is_asked_and_leaves_some_of_each_class() -> None:
    labels = np.repeat([-1, 0, 1, 2, 3], [50, 4000, 1, 2, 3])
    names = [f"{label}/{row}.png" for row, label in enumerate(labels)]
    for seed in range(5):
        chosen = by_name(labels, names, 0.2, seed, 1)
        found = [int(chosen[labels == c].sum()) for c in range(-1, 4)]
        assert abs(found[1] / 4000 - 0.2) < 0.025 and (found[0], found[2], found[3]) == (0, 0, 1) and 1 <= found[4] <= 2
    assert (by_name(labels, names, 0.2, 0, 1) != by_name(labels, names, 0.2, 1, 1)).any()
    assert places(["Über/\u00e9.png"], 0, 1) == places(["U\u0308ber/e\u0301.png"], 0, 1) != places(["Uber/e.png"], 0, 1)
    assert 0 <= places(["\ud800\udcff.png"], 0, 1)[0] < 1, "names that are no text"
    assert not by_name(labels, names, 0.0, 0, 1).any() and not by_name(labels[:0], [], 0.2, 0, 1).any()


def test_a_class_is_never_held_out_as_a_whole() -> None:
    assert stratified(np.array([0, 0, 1]), 0.9, 0, HOLDOUT).sum() == 1


def test_train_and_test_folders_are_kept_apart(tmp_path: Path) -> None:
    data = run(tmp_path, config(write(tmp_path / "in", tree())))
    assert all(n.startswith("train/") for n in data.train_files) and all(n.startswith("test/") for n in data.test_files)
    assert len(data.train_labels) == 18 and len(data.test_labels) == 6


def test_images_without_class_folders_are_unlabelled_and_all_trained_on(tmp_path: Path) -> None:
    pictures = {f"{i}.jpg": corpus.encoded(corpus.picture(i), "JPEG") for i in range(6)}
    data = run(tmp_path, config(write(tmp_path / "in", pictures), channels=1))
    assert data.train_labels.tolist() == [-1] * 6 and not data.train_holdout.any()
    assert data.test_images.shape == (0, 1, 16, 16) and data.test_labels.shape == (0,) and data.meta["classes"] == []


def test_an_unlabeled_folder_joins_the_training_images(tmp_path: Path) -> None:
    extra = {f"unlabeled/{i}.png": corpus.encoded(corpus.picture(500 + i)) for i in range(4)}
    data = run(tmp_path, config(write(tmp_path / "in", tree() | extra)))
    assert (
        (data.train_labels == -1).sum() == 4
        and data.audit["unlabelled"] == 4
        and not data.train_holdout[data.train_labels < 0].any()
    )


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "tar.bz2", "zip"])
@pytest.mark.parametrize("wrapper", ["", "my pictures/"])
def test_an_archive_gives_what_its_folder_gives(tmp_path: Path, kind: str, wrapper: str) -> None:
    pictures = tree() | {"train/README.txt": b"notes", "train/.hidden.png": b"", "__MACOSX/._x.jpg": b"x"}
    expected = run(tmp_path, config(write(tmp_path / "in", pictures)), "folder")
    archive = tmp_path / f"pictures.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
            for name, data in reversed(pictures.items()):
                out.writestr(wrapper + name, data)
    else:
        with tarfile.open(archive, f"w:{kind[4:]}") as tar:
            for name, data in reversed(pictures.items()):
                info = tarfile.TarInfo(wrapper + name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    data = run(tmp_path, config(archive, "archive"))
    for part in ("train_images.npy", "train_labels.npy", "test_images.npy", "train_files.txt", "train_holdout.npy"):
        assert (data.path / part).read_bytes() == (expected.path / part).read_bytes()
    assert data.meta["name"] == "pictures" and str(tmp_path) not in (data.path / "meta.json").read_text()


def idx(array: np.ndarray[Any, Any]) -> bytes:
    """An IDX file of bytes."""
    return (
        struct.pack(">BBBB", 0, 0, 8, array.ndim)
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.astype(np.uint8).tobytes()
    )


def fashion_files(seed: int = 0) -> dict[str, bytes]:
    """Fashion-MNIST's four files with few images, by published name without .gz."""
    rng = np.random.default_rng(seed)
    found = {}
    for prefix, n in (("train", 40), ("t10k", 20)):
        found[f"{prefix}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (n, 28, 28)))
        found[f"{prefix}-labels-idx1-ubyte"] = idx(np.arange(n) % 10)
    return found


def test_a_copy_torchvision_downloaded_before_is_found(tmp_path: Path) -> None:
    write(tmp_path / "have" / "FashionMNIST" / "raw", fashion_files())
    data = run(tmp_path, config(tmp_path / "have", "torchvision", name="FashionMNIST", image_size=28, channels=1))
    assert data.meta["num_train"] == 40 and data.meta["classes"][9] == "Ankle boot"
    assert data.train_images[0].tobytes() == fashion_files()["train-images-idx3-ubyte"][16 : 16 + 784]
    assert data.audit["leaks"]["by_file"] == 0, "images that come decoded are no files"


def test_the_copy_of_debians_package_is_found_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import FashionMNIST

    packed = {f"{name}.gz": gzip.compress(data) for name, data in fashion_files().items()}
    order = [name for name, _ in FashionMNIST.resources]
    digests = [(name, hashlib.md5(packed[name], usedforsecurity=False).hexdigest()) for name in order]
    monkeypatch.setattr(FashionMNIST, "resources", digests)
    write(tmp_path / "share" / "fashion-mnist", packed)
    monkeypatch.setattr(torchvision, "SYSTEM", tmp_path / "share")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    chosen = config("data/sample", "torchvision", name="FashionMNIST", image_size=32, channels=3)
    assert run(tmp_path, chosen).train_images.shape == (40, 3, 32, 32)
    write(tmp_path / "share" / "fashion-mnist", {order[0]: gzip.compress(b"other")})
    with pytest.raises(IntegrityError, match="damaged"):
        prepare(chosen, tmp_path / "second")


def resealed(monkeypatch: pytest.MonkeyPatch, cls: Any, folder: Path) -> None:
    """Make ``cls`` expect the hashes of the files in ``folder``, which stand for the real ones."""
    for name in ("train_list", "test_list"):
        found = [(file, hashlib.md5((folder / file).read_bytes(), usedforsecurity=False).hexdigest())
                 for file, *_ in getattr(cls, name)]  # fmt: skip
        monkeypatch.setattr(cls, name, found)


def test_stl10_brings_its_unlabeled_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import STL10

    rng = np.random.default_rng(0)
    found = {"class_names.txt": "\n".join(f"thing{i}" for i in range(10)).encode(), "fold_indices.txt": b"0 1 2\n"}
    for split, n in (("train", 20), ("unlabeled", 30), ("test", 10)):
        found[f"{split}_X.bin"] = rng.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8).tobytes()
        if split != "unlabeled":
            found[f"{split}_y.bin"] = bytes(1 + i % 10 for i in range(n))
    write(tmp_path / "have" / "stl10_binary", found)
    resealed(monkeypatch, STL10, tmp_path / "have" / "stl10_binary")
    data = run(tmp_path, config(tmp_path / "have", "torchvision", name="STL10", image_size=96, channels=3))
    assert data.meta["classes"] == [f"thing{i}" for i in range(10)] and len(data.test_labels) == 10
    assert np.bincount(data.train_labels + 1).tolist() == [30] + [2] * 10
    stored = np.frombuffer(found["train_X.bin"][: 3 * 96 * 96], np.uint8).reshape(3, 96, 96)
    assert (data.train_images[0] == stored.transpose(0, 2, 1)).all()  # column by column in the file


def test_cifar100_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR100

    rng = np.random.default_rng(0)
    names = [f"thing{i:03}" for i in range(100)]
    pixels = {
        "train": rng.integers(0, 256, (200, 3072), dtype=np.uint8),
        "test": rng.integers(0, 256, (100, 3072), dtype=np.uint8),
    }
    found = {s: pickle.dumps({"data": x, "fine_labels": [i % 100 for i in range(len(x))]}) for s, x in pixels.items()}
    found["meta"] = pickle.dumps({"fine_label_names": names})
    write(tmp_path / "have" / "cifar-100-python", found)
    resealed(monkeypatch, CIFAR100, tmp_path / "have" / "cifar-100-python")
    digest = hashlib.md5(found["meta"], usedforsecurity=False).hexdigest()
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": digest})
    data = run(tmp_path, config(tmp_path / "have", "torchvision", name="CIFAR100", image_size=32, channels=3))
    assert data.meta["classes"] == names and np.bincount(data.train_labels).tolist() == [2] * 100
    assert (data.train_images[0] == pixels["train"][0].reshape(3, 32, 32)).all()


def test_limits_take_images_evenly_over_the_classes(tmp_path: Path) -> None:
    data = run(tmp_path, config(write(tmp_path / "in", tree()), max_train=9, max_test=3))
    assert np.bincount(data.train_labels).tolist() == [3, 3, 3] and np.bincount(data.test_labels).tolist() == [1, 1, 1]


@pytest.mark.fault("F32", "I60")
def test_strange_file_names_are_kept_exactly(tmp_path: Path) -> None:
    names = [
        "a b.png",
        'it\'s "q".png',
        "new\nline.png",
        "-rf.png",
        "100%.png",
        "${HOME}.png",
        "emoji \U0001f600.png",
        "x" * 251 + ".png",
    ]
    names += ["e\u0301.png", "\u00e9.png"]
    pictures = {n: corpus.encoded(corpus.picture(i)) for i, n in enumerate(names)}
    folder = write(tmp_path / "in", pictures)
    raw = os.fsencode(folder) + b"/latin-\xe9.png"
    Path(os.fsdecode(raw)).write_bytes(corpus.encoded(corpus.picture(99)))
    data = run(tmp_path, config(folder))
    assert sorted(map(os.fsencode, data.train_files)) == sorted([*map(os.fsencode, names), b"latin-\xe9.png"])


# ---------------------------------------------------------------------- audit


@pytest.mark.fault("I57")
def test_leaks_are_dropped_from_training_and_recorded(tmp_path: Path) -> None:
    pictures = tree()
    pictures["train/cat/leak.png"] = pictures["test/cat/0.png"]
    again = Image.open(io.BytesIO(pictures["test/fish/1.png"]))
    pictures["train/fish/same pixels.bmp"] = corpus.encoded(again, "BMP")
    folder = write(tmp_path / "in", pictures)
    data = run(tmp_path, config(folder, image_size=corpus.SIDE))
    leaks = data.audit["leaks"]
    assert (leaks["count"], leaks["by_file"], leaks["dropped"]) == (2, 1, 2)
    assert sorted(leaks["examples"]) == ["train/cat/leak.png", "train/fish/same pixels.bmp"]
    assert len(data.train_images) == 18 == len(data.train_files) and not any("leak" in n for n in data.train_files)
    assert any("they are dropped" in w for w in data.audit["warnings"])
    kept = run(tmp_path, config(folder, image_size=corpus.SIDE, drop_leaks=False), "kept")
    assert len(kept.train_images) == 20 and kept.audit["leaks"] | {"dropped": 2} == leaks
    assert any("they inflate" in w for w in kept.audit["warnings"])


@pytest.mark.parametrize(("drop_leaks", "fate"), [(True, "it is dropped from training"), (False, "it inflates every score")])
def test_one_leak_is_one(tmp_path: Path, drop_leaks: bool, fate: str) -> None:
    pictures = tree()
    pictures["train/cat/leak.png"] = pictures["test/cat/0.png"]
    data = run(tmp_path, config(write(tmp_path / "in", pictures), image_size=corpus.SIDE, drop_leaks=drop_leaks))
    assert any(f"1 training image is also in the test split; {fate}" in w for w in data.audit["warnings"])


@pytest.mark.fault("I38", "I56", "I59")
def test_duplicates_conflicting_labels_and_constant_images_are_told(tmp_path: Path) -> None:
    pictures = tree()
    pictures["train/bird/copy.png"] = pictures["train/bird/0.png"]
    pictures["train/cat/not a bird.png"] = pictures["train/bird/1.png"]
    pictures["train/fish/black.png"] = corpus.encoded(Image.new("RGB", (20, 20)))
    audit = run(tmp_path, config(write(tmp_path / "in", pictures))).audit
    assert (audit["duplicates"]["train"]["extra"], audit["duplicates"]["train"]["extra_files"]) == (2, 2)
    assert audit["duplicates"]["test"]["extra"] == 0
    assert audit["conflicts"]["count"] == 1
    assert sorted(c for _, c in audit["conflicts"]["examples"][0]) == ["bird", "cat"]
    assert audit["constant"]["train"] == {"count": 1, "examples": ["train/fish/black.png"]}


@pytest.mark.parametrize("groups", [False, True], ids=["plain", "groups"])
def test_no_copy_of_a_held_out_picture_is_trained_on_by_the_choices(groups: bool) -> None:
    """Copies are all held out, or none; with groups, those that hold copies of one picture are one."""
    labels, pixels = np.arange(400) % 4, (np.arange(400) // 2).astype(np.uint64)  # rows 2 k and 2 k + 1 are one picture
    labels = labels // 2
    items = [Item(f"{row}.png", "train", group=f"film {row % 40}" if groups else "") for row in range(400)]
    held = held_out(labels, items, pixels, 0.1, 0)
    assert (held[0::2] == held[1::2]).all() and 0.05 < held.mean() < 0.2
    assert not groups or all(len({bool(held[row]) for row in range(film, 400, 40)}) == 1 for film in range(40))
    few = items[:6] if not groups else items[200:206]
    for seed in range(10):
        alone = held_out(np.array([0, 0, 1, 1, 1, 1]), few, np.array([7, 7, 1, 2, 3, 4]), 0.5, seed)
        assert not alone[:2].any() and 0 < alone.sum() < 4  # a class of one picture has nothing to hold out
    conflict = held_out(np.array([1, 1, 1, 1, 2]), items[200:205], np.array([3, 1, 0, 0, 1]), 0.4, 0)
    assert groups or conflict[1] == conflict[4]  # copies with different labels, one the only image of its class


@pytest.mark.fault("I58")
def test_near_duplicates_are_found_and_strangers_are_not(tmp_path: Path) -> None:
    pictures = {
        f"train/{c}/{i}.png": corpus.encoded(corpus.picture(50 * n + i, 64)) for n, c in enumerate(CLASSES) for i in range(20)
    }
    pictures |= {
        f"test/{c}/{i}.png": corpus.encoded(corpus.picture(900 + 50 * n + i, 64))
        for n, c in enumerate(CLASSES)
        for i in range(9)
    }
    of = {c: corpus.picture(50 * n, 64) for n, c in enumerate(CLASSES)}
    pictures["test/bird/recompressed.jpg"] = corpus.encoded(of["bird"], "JPEG", quality=40)
    pictures["test/cat/mirrored.png"] = corpus.encoded(ImageOps.mirror(of["cat"]))
    pictures["test/fish/smaller.png"] = corpus.encoded(of["fish"].resize((40, 40)))
    pictures["train/fish/leak.png"] = pictures["test/fish/1.png"]  # dropped, so that its test image has no copy
    leaked = corpus.picture(900 + 50 * CLASSES.index("fish") + 1, 64)
    pictures["train/fish/almost.jpg"] = corpus.encoded(leaked, "JPEG", quality=40)
    data = run(tmp_path, config(write(tmp_path / "in", pictures), image_size=32))
    near = data.audit["near_duplicates"]
    found = {data.test_files[row]: (data.train_files[other], mirrored) for row, other, _, mirrored in near["pairs"]}
    assert found == {
        "test/bird/recompressed.jpg": ("train/bird/0.png", False),
        "test/cat/mirrored.png": ("train/cat/0.png", True),
        "test/fish/smaller.png": ("train/fish/0.png", False),
        "test/fish/1.png": ("train/fish/almost.jpg", False),
    }
    assert near["checked"] == 30 and data.audit["leaks"]["dropped"] == data.audit["leaks"]["count"] == 1


@pytest.mark.fault("I52")
def test_sizes_modes_and_oddities_are_counted(tmp_path: Path) -> None:
    pictures = tree() | {f"train/cat/{name}": data for name, (data, _) in corpus.usable().items()}
    pictures["train/bird/small.png"] = corpus.encoded(corpus.picture(7, 10))
    data = run(
        tmp_path, config(write(tmp_path / "in", pictures | {"notes.txt": b"x", ".DS_Store": b"x", "train/Thumbs.db": b"x"}))
    )
    audit = data.audit
    assert audit["modes"]["CMYK"] == 2 and audit["formats"]["TIFF"] == 2 and audit["enlarged"] == 1
    assert audit["notes"]["several frames or pages, the first is used"] == 3
    assert audit["ignored"] == {"count": 3, "files": [".DS_Store", "notes.txt", "train/Thumbs.db"]}
    assert audit["sizes"]["smallest"] == [10, 10] and audit["sizes"]["common"]["24x24"] > 40
    assert audit["classes"]["train"]["cat"] == 6 + len(corpus.usable()) and audit["quarantined"] == []
    assert any("unbalanced" in w or "only" in w for w in audit["warnings"])


@pytest.mark.parametrize(("bits", "peak"), [(8, 200), (10, 1000), (12, 4095), (14, 5000), (16, 40000)])
def test_camera_values_keep_the_grey_levels_of_their_own_depth(tmp_path: Path, bits: int, peak: int) -> None:
    """All images with more than 8 bits are scaled alike, from the depth that holds the largest value among them."""
    ramp = np.arange(corpus.SIDE**2).reshape(corpus.SIDE, -1) / (corpus.SIDE**2 - 1)
    grey = {f"{i}.png": (ramp * peak * (i + 1) / 4).astype(np.uint16) for i in range(4)}
    pictures = {name: corpus.encoded(Image.fromarray(values)) for name, values in grey.items()}
    folder = write(tmp_path / "in", pictures | {"plain.png": corpus.encoded(corpus.picture(3))})
    data = run(tmp_path, config(folder, image_size=corpus.SIDE, channels=1))
    top = 2**bits - 1
    stored = dict(zip(data.train_files, data.train_images[:, 0], strict=True))
    for name, values in grey.items():
        assert (stored[name] == (values.astype(np.int64) * 255 + top // 2) // top).all()
    text = f"4 images: more than 8 bits a pixel, scaled from {bits} bits (the largest value is {peak})"
    assert text in data.audit["warnings"] and data.meta["bit_depth"] == bits
    assert (stored["plain.png"] == np.asarray(corpus.picture(3).convert("L"))).all()


@pytest.mark.parametrize(("hot", "hinted"), [(1, True), (corpus.SIDE, False)], ids=["one pixel", "a whole line"])
def test_a_pixel_too_bright_for_the_others_is_told_from_a_scene(tmp_path: Path, hot: int, hinted: bool) -> None:
    """12 bits of a camera in 16, and one broken pixel: what it costs the others is said, with what to set."""
    values = (np.arange(corpus.SIDE**2).reshape(corpus.SIDE, -1) % 4096).astype(np.uint16)
    wrong = values.copy()
    wrong[0, :hot] = 65535
    pictures = {"0.png": wrong, **{f"{i}.png": np.roll(values, i) for i in range(1, 4)}}
    folder = write(tmp_path / "in", {name: corpus.encoded(Image.fromarray(x)) for name, x in pictures.items()})
    text = " ".join(run(tmp_path, config(folder, image_size=corpus.SIDE, channels=1)).audit["warnings"])
    assert "scaled from 16 bits (the largest value is 65535" in text
    assert ("set data.bit_depth: 10)" in text and "if those are faults of the camera" in text) == hinted
    assert "4 images: few levels of grey are left, 3 for most of an image" in text
    assert "set data.bits: 16 to keep all, or data.bit_depth: 10 if what lies above 1023 may be cut" in text


def test_a_declared_depth_is_taken(tmp_path: Path) -> None:
    values = np.full((corpus.SIDE, corpus.SIDE), 1000, np.uint16)
    values[0, 0] = 0
    folder = write(tmp_path / "in", {f"{i}.png": corpus.encoded(Image.fromarray(values + i)) for i in range(3)})
    data = run(tmp_path, config(folder, image_size=corpus.SIDE, channels=1, bit_depth=12))
    assert data.train_images[0, 0, 1, 1] == (1000 * 255 + 2047) // 4095 and data.meta["bit_depth"] == 12


def test_a_fourth_band_is_told(tmp_path: Path) -> None:
    alpha = np.dstack([np.asarray(corpus.picture(5)), np.full((corpus.SIDE, corpus.SIDE), 90, np.uint8)])
    pictures = {f"{i}.png": corpus.encoded(corpus.picture(i)) for i in range(3)} | {
        "nir.png": corpus.encoded(Image.fromarray(alpha))
    }
    data = run(tmp_path, config(write(tmp_path / "in", pictures)))
    assert "1 image: partly transparent, laid on white" in data.audit["warnings"] and "bit_depth" not in data.meta


def test_a_channel_that_is_the_same_everywhere_is_told_and_does_no_harm(tmp_path: Path) -> None:
    """Two stains of a microscope in red and green."""
    pictures = {}
    for number in range(6):
        stains = np.asarray(corpus.picture(number)).copy()
        stains[..., 2] = 0
        pictures[f"{number}.png"] = corpus.encoded(Image.fromarray(stains))
    data = run(tmp_path, config(write(tmp_path / "in", pictures)))
    assert data.meta["std"][2] == 1 and max(data.meta["std"][:2]) < 0.5
    assert "channel 3 is the same in all training images" in data.audit["warnings"]


def test_labels_of_which_none_can_be_held_out_are_told(tmp_path: Path) -> None:
    names = [f"c{number % 5}/{number}.png" for number in range(10)]
    folder = write(tmp_path / "in", {name: corpus.encoded(corpus.picture(i)) for i, name in enumerate(names)})
    data = run(tmp_path, config(folder))
    assert len(data.train_labels) == 5 and not data.train_holdout.any()
    assert any(text.startswith("labels are not used: no class has two training images") for text in data.audit["warnings"])


def test_images_are_stored_at_their_own_side_if_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for number in range(8):
        path = folder / CLASSES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(corpus.encoded(corpus.picture(number)))
    found = run(tmp_path, config(folder, store_size=24))
    assert (found.meta["image_size"], found.meta["store_size"]) == (16, 24) and found.train_images.shape[1:] == (3, 24, 24)
    assert len(dataset.load(found.path).train_images) == 6
    (found.path / "meta.json").write_text(json.dumps({**found.meta, "store_size": 16}))
    with pytest.raises(IntegrityError, match=r"it must hold uint8 \(N, 3, 16, 16\)"):
        dataset.load(found.path)
