"""Lists and shards as other programs and people write them: each is read for what it says, or what is not read is told."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tasks.prepare.source import Source, open_source
from tasks.runtime.errors import DataError
from tests.support import corpus
from tests.tasks.prepare.test_lists import LIST, PICTURES, folder_of, listing, sample, shard
from tests.tasks.prepare.test_prepare import class_folders, config, run, write

IMAGES = [data for _, data in sorted(PICTURES.items())]


def opened(tmp_path: Path, table: bytes = LIST, name: str = "labels.csv") -> Source:
    return open_source(config(folder_of(tmp_path, table, name), "table"))


def labels(source: Source) -> dict[str, str]:
    return {item.name: source.classes[item.label] if item.label >= 0 else "" for item in source.items}


def held(path: Path, numbers: list[int], names: list[str], first: int = 0) -> None:
    """A parquet file as Hugging Face writes it: images with numbers among ``names``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = ", ".join(f'"{name}"' for name in names)
    facts = f'{{"info": {{"features": {{"label": {{"names": [{listed}]}}}}}}}}'
    table = pa.table({"image": IMAGES[first : first + len(numbers)], "label": numbers})
    parquet.write_table(table.replace_schema_metadata({"huggingface": facts}), path)


def test_numbers_of_classes_mean_what_their_own_file_says(tmp_path: Path) -> None:
    held(tmp_path / "in/a.parquet", [0, 1, 0], ["cat", "dog"])
    held(tmp_path / "in/b.parquet", [0, 1, -1], ["dog", "owl"], first=3)
    source = open_source(config(tmp_path / "in", "table"))
    assert source.classes == ["cat", "dog", "owl"]
    assert list(labels(source).values()) == ["cat", "dog", "cat", "dog", "owl", ""]
    write(tmp_path / "in", PICTURES | {"more.csv": b"path,label\nimg/9.png,cat\nimg/10.png,newt\n"})
    assert labels(open_source(config(tmp_path / "in", "table")))["img/10.png"] == "newt"
    write(tmp_path / "in", {"more.csv": b"path,label\nimg/9.png,1\n"})
    with pytest.raises(DataError, match=r"the labels of more\.csv are numbers, and the other lists call their classes diff"):
        open_source(config(tmp_path / "in", "table"))


def test_numbers_of_classes_mean_the_same_in_files_that_do_not_say_what(tmp_path: Path) -> None:
    held(tmp_path / "in/train-1.parquet", [0, 1, 0, 1], ["cat", "dog"])
    for number, name in enumerate(("train-0", "test-0"), 1):
        of_kind = float if name == "test-0" else int
        table = pa.table({"image": IMAGES[4 * number : 4 * number + 4], "label": [of_kind(i % 2) for i in range(4)]})
        parquet.write_table(table, tmp_path / f"in/{name}.parquet")
    source = open_source(config(tmp_path / "in", "table"))
    assert source.classes == ["cat", "dog"] and [item.split for item in source.items].count("test") == 4


def test_lines_of_json_beside_another_list_are_something_else(tmp_path: Path) -> None:
    write(tmp_path / "in", {"captions.jsonl": b'{"image": "img/0.png", "label": ["a", "b"]}', "log.jsonl": b"[]"})
    source = opened(tmp_path)
    assert labels(source) == {f"img/{i}.png": f"c{i % 2}" for i in range(12)}
    assert "not a list that names files, so not read: 'captions.jsonl', 'log.jsonl'" in source.warnings
    write(tmp_path / "in", {"captions.jsonl": b'{"image": "img/0.png", "label": 1}\n{"image": "img/1.png", "label": 0}\n'})
    (tmp_path / "in/labels.csv").write_bytes(b"id,text\n0,a\n")  # no list: then the lines are
    assert labels(open_source(config(tmp_path / "in", "table"))) == {"img/0.png": "1", "img/1.png": "0"}


def test_a_name_with_an_ending_is_that_file_or_none(tmp_path: Path) -> None:
    write(tmp_path / "in", {"0.png": IMAGES[0], "1.png": IMAGES[1], "2.png.png": IMAGES[2]})
    lines = b'{"file": 0, "label": 0}\n{"file": 1, "label": 1}\n{"file": "2.png", "label": 1, "said": "a\xe2\x80\xa8b"}\n'
    source = open_source(config(write(tmp_path / "in", {"metadata.jsonl": lines}), "table"))
    assert labels(source) == {"0.png": "0", "1.png": "1"} and source.bad == [("2.png", "listed in the table but not there")]


def test_paths_count_by_the_link_that_data_path_is(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, listing(f"path={tmp_path}/link/img/{{}}.png", "label=c{1}"))
    (tmp_path / "link").symlink_to(folder)
    assert set(labels(open_source(config(tmp_path / "link", "table")))) == set(PICTURES)


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (listing("path=img\\{}.png", "label=c{1}"), "windows.csv"),
        (listing("image=img/{}", "label=c{1}"), "without_ending.csv"),
        (listing("path=img/{}.png", 'label= "c{1}"').replace(b"path,", b"path, "), "blanks.csv"),
        (listing("path=./img/{}.png", "label=c{1} "), "dots.csv"),
        (LIST.decode().replace(",", "\t").encode("utf-16"), "unicode_text.csv"),
        (b"sep=;\r" + LIST.replace(b",", b";").replace(b"\n", b"\r"), "old_mac.csv"),
        (listing("path=img/{}.png", "label=c{1}", "split=None", "group= nan"), "pandas.csv"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lists_as_people_s_programs_write_them_are_read(tmp_path: Path, table: bytes, name: str) -> None:
    source = opened(tmp_path, table, name)
    assert labels(source) == {f"img/{i}.png": f"c{i % 2}" for i in range(12)} and source.classes == ["c0", "c1"]
    assert {item.split for item in source.items} == {"train"} and not any(item.group for item in source.items)


def test_lines_of_json_are_read_at_the_top_and_beside_the_images(tmp_path: Path) -> None:
    lines = [f'{{"file_name": "img/{i}.png", "label": {i % 2}, "bbox": [1, 2]}}' for i in range(12)]
    source = opened(tmp_path, "\n".join([*lines[:11], "", '{"file_name": "img/11.png"}']).encode(), "metadata.jsonl")
    assert labels(source) == {f"img/{i}.png": str(i % 2) for i in range(11)} | {"img/11.png": ""}
    (tmp_path / "in/metadata.jsonl").unlink()
    write(tmp_path / "in", {"img/metadata.jsonl": "\n".join(lines).replace("img/", "").encode()})
    assert set(labels(open_source(config(tmp_path / "in", "table")))) == set(PICTURES)
    for wrong in (b"[1, 2]", b"{", b"\xff"):
        with pytest.raises(DataError, match=r"img/metadata\.jsonl, line 1 is no JSON object in UTF-8"):
            open_source(config(write(tmp_path / "in", {"img/metadata.jsonl": wrong}), "table"))


def test_a_cell_that_holds_an_image_is_not_shown_whole(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the 1 images") as error:
        opened(tmp_path, b"image,label\n" + b"iVBORw0KGgo" * 1000 + b",c0\n")
    assert len(str(error.value)) < 500


def test_a_path_from_the_root_counts_where_it_leads_into_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    table = listing(f"path={folder}/img/{{}}.png", "label=c{1}").replace(f"{folder}/img/3.".encode(), b"../in/img/3.")
    assert set(labels(opened(tmp_path, table))) == set(PICTURES)
    for path in ("../in2/0.png", "/etc/passwd", "..", "../in", "img/../../x.png"):
        with pytest.raises(DataError, match="paths must lie below its folder"):
            opened(tmp_path, LIST + f"{path},c1\n".encode())


def test_what_several_lists_are_is_told(tmp_path: Path) -> None:
    write(tmp_path / "in", {"sample_submission.csv": b"path,label\nimg/0.png,c0\n", "classes.csv": b"id,name\n0,cat\n"})
    said = " ".join(opened(tmp_path).warnings)
    assert "2 lists are read: 'labels.csv' (12 rows) and 'sample_submission.csv' (1 row)" in said
    assert "not a list that names files, so not read: 'classes.csv'" in said
    (tmp_path / "in/labels.csv").unlink()
    (tmp_path / "in/sample_submission.csv").unlink()
    with pytest.raises(DataError, match=r"classes\.csv has the columns id, name; one must name the files"):
        open_source(config(tmp_path / "in", "table"))


def test_folders_say_what_pandas_and_spark_put_into_them(tmp_path: Path) -> None:
    for number, (split, label) in enumerate((s, c) for s in ("train", "test") for c in ("cat%20a", "dog")):
        path = tmp_path / f"in/split={split}/label={label}/0.parquet"
        path.parent.mkdir(parents=True)
        parquet.write_table(pa.table({"image": IMAGES[2 * number : 2 * number + 2]}), path)
    source = open_source(config(tmp_path / "in", "table"))
    assert source.classes == ["cat a", "dog"] and [item.split for item in source.items].count("test") == 4
    assert all((item.split == "test") == ("split=test" in item.name) for item in source.items)


def test_parquet_names_files_in_several_ways(tmp_path: Path) -> None:
    names, numbers = sorted(PICTURES), [i % 2 for i in range(12)]
    ways = {
        "categories": pa.array(names).dictionary_encode(),
        "files": pa.array([{"bytes": None, "path": name} for name in names]),
        "lists": pa.array([list(PICTURES[name]) for name in names], pa.list_(pa.uint8())),
    }
    for way, column in ways.items():
        folder = write(tmp_path / way / "in", PICTURES)
        parquet.write_table(pa.table({"image": column, "label": numbers}), folder / "train.parquet")
        data = run(tmp_path / way, config(folder, "table"))
        assert len(data.train_files) + len(data.test_files) == 12, way


@pytest.mark.parametrize("name", ["val.csv", "test_images.csv"])
def test_a_name_that_makes_everything_a_test_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"every image is of the split (val|test), by a column or by the name of the list"):
        opened(tmp_path, LIST, name)


def test_what_may_be_no_label_and_is_a_class_is_told(tmp_path: Path) -> None:
    said = opened(tmp_path, listing("path=img/{}.png", "label={1}") + b"img/11.png,1\n").warnings
    assert not said
    rows = b"path,label\n" + b"".join(f"img/{i}.png,{(-1, 0, 1)[i % 3]}\n".encode() for i in range(12))
    assert "4 images have the label -1: a class; leave it empty if it is none" in opened(tmp_path, rows).warnings
    assert any("the label None: a class" in text for text in opened(tmp_path, rows.replace(b",-1", b",None")).warnings)


def test_reasons_for_images_without_labels_name_the_folders_and_the_other_lists(tmp_path: Path) -> None:
    write(tmp_path / "in", class_folders(4))
    table = b"path,split\n" + b"".join(f"{name},train\n".encode() for name in class_folders(4))
    assert "not from folders as 'bird'" in " ".join(opened(tmp_path, table).warnings)
    loose = write(tmp_path / "loose", {f"{i}.png": data for i, data in enumerate(IMAGES)})
    for name, said in (
        ("metadata.jsonl", "no labels: lists as 'metadata.jsonl' are read by data.source: table"),
        ("labels.xlsx", "no labels: 'labels.xlsx' is not read; data.source: table reads .csv, .tsv, .jsonl and .parquet"),
        ("more/_classes.csv", "no labels: 'more/_classes.csv' is not read"),
        ("labels.csv", "no labels: lists as 'labels.csv' are read by data.source: table"),
    ):
        write(loose, {name: b"{}"})
        assert said in " ".join(open_source(config(loose)).warnings)
        (loose / name).unlink()
    write(loose, {"0.json": b"{}"})
    assert not open_source(config(loose)).warnings
    folders = write(tmp_path / "folders", class_folders(4) | {"train.csv": b"", "notes.csv": b""})
    assert "their splits: lists as 'train.csv' are read by data.source: table" in open_source(config(folders)).warnings
    with pytest.raises(DataError, match=r"holds no table: .*; none of these is one: 'train/_classes\.csv'"):
        open_source(config(write(tmp_path / "roboflow", {"train/_classes.csv": b"", "train/0.png": IMAGES[0]}), "table"))


def test_a_listed_file_that_is_hidden_and_a_linked_list_are_told(tmp_path: Path) -> None:
    write(tmp_path / "in", {".more/x.png": IMAGES[0]})
    assert opened(tmp_path, LIST + b".more/x.png,c0\n").bad == [
        (".more/x.png", "listed in the table, but hidden, or no image by its name")
    ]
    (tmp_path / "in/labels.csv").rename(tmp_path / "labels.csv")
    (tmp_path / "in/labels.csv").symlink_to(tmp_path / "labels.csv")
    with pytest.raises(
        DataError, match=r"labels\.csv: a link that leads out of the folder \(data\.follow_links: true reads it\)"
    ):
        open_source(config(tmp_path / "in", "table"))
    assert len(open_source(config(tmp_path / "in", "table", follow_links=True)).items) == 12


def test_shards_in_folders_of_splits_and_those_that_are_none(tmp_path: Path) -> None:
    for i in range(4):
        shard(tmp_path / f"in/train/{i}.TAR", sample(i))
    shard(tmp_path / "in/val/0.tar", sample(4) | sample(5))
    (tmp_path / "in/empty.tar").write_bytes(bytes(10240))
    for hidden in ("__MACOSX/._0.tar", ".git/x.tar"):
        write(tmp_path / "in", {hidden: b"x"})
    shard(tmp_path / "in/backup/0.tar", sample(0))
    (tmp_path / "in/gone.tar").symlink_to("nowhere")
    (tmp_path / "in/folder.tar").mkdir()
    os.mkfifo(tmp_path / "in/pipe.tar")
    data = run(tmp_path, config(tmp_path / "in", "webdataset"))
    assert sorted(data.test_files) == ["val/0.tar/4.png", "val/0.tar/5.png"] and len(data.train_files) == 4
    said = " ".join(data.audit["warnings"])
    assert "4 folders or packed shards beside the shards not read: 'backup', 'folder.tar', 'gone.tar' and 1 more" in said
    assert "1 shard holds no images: 'empty.tar'" in said
    (tmp_path / "in/empty.tar").write_bytes(bytes(102400))  # as a download leaves it that was cut off
    with pytest.raises(DataError, match=r"empty\.tar is not a tar"):
        open_source(config(tmp_path / "in", "webdataset"))
    with pytest.raises(DataError, match=r"holds no shards \(\.tar\); not read: 'a\.tar\.gz'"):
        open_source(config(write(tmp_path / "packed", {"a.tar.gz": b""}), "webdataset"))
    shard(tmp_path / "in/.old/0.tar", sample(7))
    (tmp_path / "in/empty.tar").unlink()
    said = " ".join(open_source(config(tmp_path / "in", "webdataset")).warnings)
    assert "5 folders or packed shards beside the shards not read: 'backup', 'folder.tar', 'gone.tar' and 2 more" in said
    for name, number in (("train2017", 0), ("train2017", 1), ("val2017", 2)):
        shard(tmp_path / f"coco/{name}/{number}.tar", sample(2 * number) | sample(2 * number + 1))
    splits = [item.split for item in open_source(config(tmp_path / "coco", "webdataset")).items]
    assert splits.count("train") == 4 and splits.count("test") == 2
    shard(tmp_path / "deep/one/0.tar", sample(0) | sample(1))
    assert len(open_source(config(tmp_path / "deep", "webdataset")).items) == 2


def test_samples_of_a_shard_that_are_left_out_are_told(tmp_path: Path) -> None:
    shard(tmp_path / "in/0.tar", sample(0) | sample(1) | {"2.npy": b"x", "2.cls": b"1", "3.cls": b"0"})
    said = " ".join(open_source(config(tmp_path / "in", "webdataset")).warnings)
    assert "1 .npy file lies beside pictures" in said
    assert "2 labels in the shards without a picture: '0.tar/2.cls', '0.tar/3.cls'" in said


def test_records_are_no_pixels(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        np.save(folder / f"{i}.npy", np.zeros((9, 9), [("x", "u1"), ("y", "u1")]))
    with pytest.raises(DataError, match=r"an array of .*; it must be of whole numbers or floats"):
        run(tmp_path, config(folder))


def test_films_and_archives_are_told_and_what_lies_beside_them_is_not_read(tmp_path: Path) -> None:
    beside = {
        "cat/0.xmp": b"x",
        "cat/0.tfw": b"x",
        "film.mp4": b"x",
        "raw.zip": b"x",
        "dog/0.png.ovr": corpus.encoded(corpus.picture()),
    }
    data = run(tmp_path, config(write(tmp_path / "in", class_folders(4) | beside)))
    assert len(data.train_files) + len(data.test_files) == 12
    assert "2 videos or archives are not read: 'film.mp4', 'raw.zip'" in data.audit["warnings"]
