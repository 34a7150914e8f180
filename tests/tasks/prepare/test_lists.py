"""Images from lists and shards: CSV and parquet with labels, splits and groups, images in parquet, webdataset's tar files."""

import io
import itertools
import json
import tarfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tasks.prepare.labels import Row, arranged, group_of
from tasks.prepare.source import open_source
from tasks.prepare.splits import by_groups, by_name
from tasks.runtime.errors import DataError, UsageError
from tests.support import corpus
from tests.tasks.prepare.test_prepare import config, run, write

NAMES = ["cat", "dog"]
PICTURES = {f"img/{i}.png": corpus.encoded(corpus.picture(i)) for i in range(12)}


def listing(*columns: str, rows: int = 12) -> bytes:
    """A CSV of the pictures; {} in a column is the number."""
    heads = [column.partition("=")[0] for column in columns]
    lines = [",".join(column.partition("=")[2].format(i, i % 2, i % 3) for column in columns) for i in range(rows)]
    return "\n".join([",".join(heads), *lines, ""]).encode()


LIST = listing("path=img/{}.png", "label=c{1}")


def folder_of(tmp_path: Path, table: bytes = LIST, name: str = "labels.csv") -> Path:
    return write(tmp_path / "in", PICTURES | {name: table})


def test_a_csv_gives_paths_and_classes_and_the_other_files_are_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, b"\xef\xbb\xbf" + listing("file_name=img/{}.png", "label=c{1}", rows=10) + b"img/99.png,c0\n")
    data = run(tmp_path, config(folder, "table", max_bad=1, image_size=corpus.SIDE))
    assert data.meta["classes"] == ["c0", "c1"] and data.meta["name"] == "in"
    stored = dict(zip([*data.train_files, *data.test_files], [*data.train_labels, *data.test_labels], strict=True))
    assert stored == {f"img/{i}.png": i % 2 for i in range(10)}
    assert [q["file"] for q in data.audit["quarantined"]] == ["img/99.png"]
    assert data.audit["ignored"]["files"] == ["img/10.png", "img/11.png"]
    pixels = dict(zip([*data.train_files, *data.test_files], [*data.train_images, *data.test_images], strict=True))
    assert (pixels["img/1.png"] == np.asarray(corpus.picture(1)).transpose(2, 0, 1)).all()


def test_splits_are_those_of_the_column_or_of_the_table_s_name(tmp_path: Path) -> None:
    table = listing("path=img/{}.png", "label=c{1}", "split=test", rows=4) + listing("a=img/{}.png", "b=c{1}", "c=train")[6:]
    source = open_source(config(folder_of(tmp_path, b"\n".join(table.splitlines()[:5] + table.splitlines()[9:])), "table"))
    assert [item.split for item in source.items] == ["test"] * 4 + ["train"] * 8
    folder = write(
        tmp_path / "two", PICTURES | {"train.csv": LIST.replace(b"img/11", b"img/1"), "val.csv": b"path,label\nimg/11.png,c1\n"}
    )
    assert [item.name for item in open_source(config(folder, "table")).items if item.split == "test"] == ["img/11.png"]


def test_groups_never_straddle_splits(tmp_path: Path) -> None:
    data = run(tmp_path, config(folder_of(tmp_path, listing("path=img/{}.png", "label=c{1}", "group=p{2}")), "table"))
    groups = [{int(name[4:-4]) % 3 for name in names} for names in (data.train_files, data.test_files)]
    assert groups[0] and groups[1] and not groups[0] & groups[1]
    held = {int(name[4:-4]) % 3 for name, out in zip(data.train_files, data.train_holdout, strict=True) if out}
    kept = {int(name[4:-4]) % 3 for name, out in zip(data.train_files, data.train_holdout, strict=True) if not out}
    assert held and not held & kept


@pytest.mark.parametrize("told", [True, False])
def test_images_without_a_label_follow_their_group(tmp_path: Path, told: bool) -> None:
    """Of four patients each has a picture that nobody labelled; the third one is the test, or one is drawn."""
    rows = [
        (f"img/{i}.png", "" if i % 3 == 2 else f"c{i % 3}", f"p{i // 3}", "test" if i // 3 == 2 else "train") for i in range(12)
    ]
    heads = ("path", "label", "group", "split")[: 4 if told else 3]
    table = "\n".join(",".join(row) for row in (heads, *(row[: len(heads)] for row in rows)))
    data = run(tmp_path, config(folder_of(tmp_path, table.encode()), "table", image_size=corpus.SIDE, test_fraction=0.25))
    groups = [{int(name[4:-4]) // 3 for name in names} for names in (data.train_files, data.test_files)]
    assert "1 image without a label is of a group in the test split: not used" in data.audit["warnings"]
    assert len(groups[1]) == 1 and not groups[0] & groups[1] and len(data.train_files) == 9 and len(data.test_files) == 2


@pytest.mark.parametrize("seed", range(5))
def test_shares_by_groups_are_near_what_is_asked_and_leave_some_of_each_class(seed: int) -> None:
    generator = np.random.default_rng(seed)
    groups = [f"g{g}" for g in generator.integers(0, 60, 900)]
    labels = generator.integers(-1, 5, 900)
    chosen = by_groups(labels, groups, groups, 0.2, seed, 1)
    for c in range(5):
        assert 0.1 < chosen[labels == c].mean() < 0.3
    assert not chosen[labels < 0].any()
    inside = {g for g, out, label in zip(groups, chosen, labels, strict=True) if out and label >= 0}
    assert not inside & {g for g, out, label in zip(groups, chosen, labels, strict=True) if not out and label >= 0}


def test_most_groups_keep_their_side_when_others_come() -> None:
    groups = [f"patient {row // 5}" for row in range(1000)]
    labels = np.arange(1000) // 5 % 2
    before = by_groups(labels[:700], groups[:700], groups[:700], 0.2, 0, 1)
    after = by_groups(labels, groups, groups, 0.2, 0, 1)
    assert before.mean() == after.mean() == 0.2
    assert (before != after[:700]).sum() <= 0.05 * 700
    alone = [f"c{label}/{row}.png" for row, label in enumerate(labels)]
    few = by_groups(labels, ["pair"] * 2 + [""] * 998, alone, 0.2, 0, 1)
    assert (by_name(labels, alone, 0.2, 0, 1) != few).sum() <= 0.05 * 1000, "two images become a group"


def test_of_a_class_with_few_and_large_groups_one_is_held_out() -> None:
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    groups = [f"scan{row // 10}" for row in range(60)]  # three, two and one of a class
    chosen = by_groups(labels, groups, groups, 0.05, 0, 1)
    assert [int(chosen[labels == c].sum()) for c in range(3)] == [10, 10, 0]
    assert not by_groups(labels, groups, groups, 0.0, 0, 1).any()


def test_a_table_in_a_hidden_folder_is_none(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, listing("path=img/{}.png", "label=c{1}"))
    write(folder, {".cache/left.parquet": b"no table"})
    assert len(run(tmp_path, config(folder, "table")).meta["classes"]) > 1


def test_columns_that_nobody_reads_are_named_where_there_is_no_label(tmp_path: Path) -> None:
    data = run(tmp_path, config(folder_of(tmp_path, listing("path=img/{}.png", "class=c{1}")), "table"))
    assert not data.meta["classes"]
    assert "no labels: they are read from a column 'label', and not from class" in data.audit["warnings"]


def test_the_words_of_a_table_s_name_or_its_folder_are_its_split(tmp_path: Path) -> None:
    rows = LIST.splitlines(keepends=True)
    for train, test in (
        ("cifar10-train.csv", "cifar10-test.csv"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("default/partial-train/0000.parquet", "default/partial-validation/0000.parquet"),
        ("devices.csv", "my_val.csv"),
    ):
        tables = {train: rows[0] + b"".join(rows[1:9]), test: rows[0] + b"".join(rows[9:])}
        if train.endswith("parquet"):
            tables = {name: as_parquet(table) for name, table in tables.items()}
        place = tmp_path / train.replace("/", "-")
        items = open_source(config(write(place, PICTURES | tables), "table")).items
        assert {item.name for item in items if item.split == "test"} == {f"img/{i}.png" for i in range(8, 12)}
        assert len(items) == 12
    with pytest.raises(DataError, match="'train_or_test' names two splits, test and train"):
        open_source(config(folder_of(tmp_path, name="train_or_test.csv"), "table"))


def as_parquet(table: bytes) -> bytes:
    """A list in CSV as one in parquet."""
    head, *lines = (line.split(",") for line in table.decode().split())
    sink = io.BytesIO()
    parquet.write_table(pa.table({name: [line[i] for line in lines] for i, name in enumerate(head)}), sink)
    return sink.getvalue()


def test_images_that_no_table_lists_and_names_that_are_not_there_are_told(tmp_path: Path) -> None:
    source = open_source(config(folder_of(tmp_path, listing("path=img/{}.png", "label=c{1}", rows=9)), "table"))
    assert "3 images that no table lists are not used" in source.warnings
    with pytest.raises(DataError, match=r"the first is 'img.0.PNG', and one that is there 'img/0.png'"):
        open_source(config(folder_of(tmp_path, listing("path=img/{}.PNG", "label=c{1}")), "table"))


REFUSED = {
    "several labels": (listing("path=img/{}.png", "label=a|b"), "has several labels"),
    "targets": (listing("path=img/{}.png", "label=0.{}5"), "a number to predict, no class"),
    "an unknown split": (listing("path=img/{}.png", "label=c{1}", "split=fold{1}"), "has the split 'fold0'"),
    "no paths": (
        listing("picture=img/{}.png", "label=c{1}"),
        "has the columns picture, label; one must name the files: path or file_name",
    ),
    "a path that leads out": (listing("path=../{}.png", "label=c{1}"), "must lie below its folder"),
    "an absolute path": (listing("path=/img/{}.png", "label=c{1}"), "must lie below its folder"),
    "two labels": (LIST + b"img/0.png,c1\n", "is listed twice"),
    "a group in two splits": (
        listing("path=img/{}.png", "label=c{1}", "group=p{2}", "split=train") + b"img/0.png,c0,p1,test\n",
        "listed twice|of the group 'p1'",
    ),
    "nothing there": (listing("path=no/{}.png", "label=c{1}"), "none of the 12 images"),
    "no text": (b"path,label\n\xff\xfe,1\n", "is no text in UTF-8 .*save it as CSV in UTF-8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_list_of_classes_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    table, word = REFUSED[case]
    with pytest.raises(DataError, match=word) as error:
        open_source(config(folder_of(tmp_path, table), "table"))
    assert "\n" not in str(error.value)


def test_a_folder_without_a_table_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    with pytest.raises(UsageError, match="give the folder of the table"):
        open_source(config(folder / "labels.csv", "table"))
    (folder / "labels.csv").unlink()
    with pytest.raises(DataError, match="holds no table"):
        open_source(config(folder, "table"))


def test_labels_are_words_or_whole_numbers_in_their_order() -> None:
    items, classes, _ = arranged([Row(str(i), label) for i, label in enumerate([10, 9.0, "2", None, "", "007"])], "x")
    assert classes == ["2", "007", "9", "10"] and [item.label for item in items] == [3, 2, 0, -1, -1, 1]
    _, named, _ = arranged([Row("a", 1, among=NAMES), Row("b", 0, among=NAMES)], "x")
    assert named == ["cat", "dog"]
    with pytest.raises(DataError, match="the label 2 is none of its 2 classes"):
        arranged([Row("a", 2, among=NAMES)], "x")
    with pytest.raises(DataError, match="has several labels"):
        arranged([Row("a", [1, 2])], "x")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["0e1", "0e2", "1e3", "1000", "1_000"], ["1000", "0e1", "0e2", "1_000", "1e3"]),
        (["12e4", "00e1", "ab12", "inf", "--5"], ["--5", "00e1", "12e4", "ab12", "inf"]),
        (["7.0", 7, 3.0, "cat", "9" * 5000], ["3", "7", "9" * 5000, "cat"]),
        (["nan", float("nan"), None, "a", "b"], ["a", "b"]),
    ],
)
def test_a_label_that_looks_like_a_number_stays_what_is_written(labels: list[Any], classes: list[str]) -> None:
    items, found, _ = arranged([Row(str(i), label) for i, label in enumerate(labels)], "x")
    assert found == classes and len(items) == len(labels)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (date(2026, 1, 2), "has the label 2026-01-02, a date; a class is a word or a number"),
        (0.5, "a number to predict"),
        (float("inf"), "a number to predict"),
        ("1.5e3", "a number to predict"),
        ("a", "has one class only"),
    ],
)
def test_what_is_no_class_is_refused(label: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        arranged([Row("0", label), Row("1", "a")], "x")


@pytest.mark.parametrize("several", ["cat,dog", "cat dog", "dog / cat", "cat&dog", "cat+dog"])
def test_a_label_that_is_made_of_other_labels_is_refused_and_one_that_only_looks_so_is_not(several: str) -> None:
    rows = [Row(str(i), label) for i, label in enumerate(["cat", "dog", "bird", several])]
    with pytest.raises(DataError, match=r"is made of '(cat|dog)' and '(cat|dog)', which are, or are in, other labels too"):
        arranged(rows, "x")
    _, classes, _ = arranged([*rows[:3], Row("4", "Paris, France"), Row("5", "black cat"), Row("6", "a/b")], "x")
    assert {"Paris, France", "black cat", "a/b"} < set(classes)
    with pytest.raises(DataError, match="is made of 'bird' and 'cat'"):
        arranged([Row("0", "cat,dog,bird"), Row("1", "dog,bird"), Row("2", "bird,cat")], "x")
    pairs = [Row(str(i), f"{plant}, {state}") for i, (plant, state) in enumerate(itertools.product("ab", "cd"))]
    assert len(arranged(pairs, "x")[1]) == 4  # each is one class, though each has two parts
    assert len(arranged([Row(str(i), grade) for i, grade in enumerate(["1", "2", "1/2"])], "x")[1]) == 3
    _, _, notes = arranged([Row("0", "cat,dog"), Row("1", "bird,fish")], "x")
    assert notes[0].startswith("2 of 2 labels hold a comma, as 'bird,fish'")
    many = [f"class{i}" for i in range(100)] + ["maillot", "tank", "suit", "maillot tank suit"]
    assert len(arranged([Row(str(i), label) for i, label in enumerate(many)], "x")[1]) == 104
    for listed in ('["cat", "dog"]', "['cat']", "{cat,dog}", "[1 0]", "[0]", "[]", "[ True False]", "[1.e-03 2.e+00]"):
        with pytest.raises(DataError, match="has several labels"):
            arranged([*rows[:3], Row("4", listed)], "x")
    _, classes, _ = arranged([*rows[:3], Row("4", "[UNK]"), Row("5", "(not sure)")], "x")
    assert {"[UNK]", "(not sure)"} < set(classes)


def test_what_other_programs_write_for_nothing_is_no_label_and_said() -> None:
    labels = ["NA", "NA", "N/A", "<NA>", "null", "none", "cat", "cat"]
    items, classes, notes = arranged([Row(str(i), label) for i, label in enumerate(labels)], "x")
    assert classes == ["cat", "none"] and [item.label for item in items] == [-1] * 5 + [1, 0, 0]
    assert notes[0] == "2 images have the label 'NA', which is read as none; write it otherwise if it is a class"
    assert len(notes) == 4


def test_a_missing_group_is_none_and_a_column_that_comes_twice_is_refused(tmp_path: Path) -> None:
    assert group_of(None) == group_of(float("nan")) == group_of("NA") == "" and group_of(7) == "7"
    assert group_of("M\u00fcller") == group_of("Mu\u0308ller")  # lists of two systems
    assert group_of(7.0) == group_of(" 7.0") == "7" and group_of("p1 ") == "p1"  # a column of floats, where some have none
    folder = folder_of(tmp_path, b"path,label,label\nimg/0.png,a,b\n", name="LABELS.CSV")
    with pytest.raises(DataError, match=r"LABELS.CSV has the column 'label' twice"):
        open_source(config(folder, "table"))


@pytest.mark.parametrize("nested", [True, False])
def test_images_in_parquet_with_the_class_names_of_hugging_face(tmp_path: Path, nested: bool) -> None:
    folder = tmp_path / "in" / "data"
    folder.mkdir(parents=True)
    names = {"info": {"features": {"label": {"names": ["cat", "dog"]}}}}
    for split, numbers in (("train", range(8)), ("test", range(8, 12))):
        data = [corpus.encoded(corpus.picture(i)) for i in numbers]
        image = [{"bytes": d, "path": None} for d in data] if nested else data
        table = pa.table({"img" if nested else "image": image, "label": [i % 2 for i in numbers]})
        table = table.replace_schema_metadata({"huggingface": json.dumps(names)})
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet", row_group_size=3)
    found = run(tmp_path, config(tmp_path / "in", "table", image_size=corpus.SIDE))
    assert found.meta["classes"] == ["cat", "dog"] and found.meta["num_test"] == 4
    assert not found.audit["notes"]  # no word on the ending of a name that is none of the image
    assert found.test_files[1] == "data/test-00000-of-00001.parquet#000001" and found.test_labels.tolist() == [0, 1, 0, 1]
    assert (found.test_images[1] == np.asarray(corpus.picture(9)).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("separator", [";", "\t"])
def test_columns_may_be_parted_as_spreadsheets_do_and_the_file_be_called_image(tmp_path: Path, separator: str) -> None:
    lines = [f"image{separator}label", *(f"img/{i}.png{separator}c{i % 2}" for i in range(8))]
    data = run(tmp_path, config(folder_of(tmp_path, "\n".join(lines).encode()), "table", image_size=corpus.SIDE))
    assert data.meta["classes"] == ["c0", "c1"] and len(data.train_files) + len(data.test_files) == 8
    named = pa.table({"image": [f"img/{i}.png" for i in range(8)], "label": [f"c{i % 2}" for i in range(8)]})
    (tmp_path / "other").mkdir()
    folder = write(tmp_path / "other" / "in", PICTURES)
    parquet.write_table(named, folder / "list.parquet")
    data = run(tmp_path / "other", config(folder, "table", image_size=corpus.SIDE))
    assert data.meta["classes"] == ["c0", "c1"] and len(data.train_files) + len(data.test_files) == 8


def test_a_decimal_comma_between_semicolons_is_a_number_to_predict(tmp_path: Path) -> None:
    def table(label: str) -> Path:
        lines = ["image;label", *(f"img/{i}.png;{label.format(i % 2)}" for i in range(8))]
        return folder_of(tmp_path, "\n".join(lines).encode())

    with pytest.raises(DataError, match=r"has the label 0\.5: a number to predict"):
        open_source(config(table("{},5"), "table"))
    assert open_source(config(table("{},0"), "table")).classes == ["0", "1"]
    assert open_source(config(table("c{},5"), "table")).classes == ["c0,5", "c1,5"]


def test_rows_of_blanks_say_nothing_and_what_is_not_known_is_no_split(tmp_path: Path) -> None:
    table = "path,label,split,\n" + "".join(f"img/{i}.png,c{i % 2},{'NA' if i else 'test'},{i}\n" for i in range(12))
    source = open_source(config(folder_of(tmp_path, f"{table},,,\n  ,, ,\n,c0,train,9\n".encode()), "table"))
    assert [item.split for item in source.items] == ["test"] + ["train"] * 11
    assert source.bad == [("labels.csv, row 16", "it names no file")]
    columns = {"path": [f"img/{i}.png" for i in range(3)] + [None] * 2, "label": [b"NA", b"cat", b"dog", None, None]}
    columns |= {"caption": [None] * 3 + ["a dog", None], "mask": [b"a picture"] * 5}  # only what may be large is not looked at
    (tmp_path / "other").mkdir()
    folder = write(tmp_path / "other/in", PICTURES)
    parquet.write_table(pa.table(columns), folder / "list.parquet")
    source = open_source(config(folder, "table"))
    assert source.classes == ["cat", "dog"] and source.bad == [("list.parquet, row 4", "it names no file")]
    assert any("1 image has the label 'NA', which is read as none" in text for text in source.warnings)


def test_what_keeps_images_apart_is_read_whatever_its_case_or_told(tmp_path: Path) -> None:
    rows = [(f"img/{i}.png", f"c{i % 2}", "test" if i < 4 else "train", f"p{i}") for i in range(12)]
    text = "\n".join(",".join(row) for row in (("Path", "Label", "Split", "patient_id"), *rows))
    source = open_source(config(folder_of(tmp_path, text.encode()), "table"))
    assert [item.split for item in source.items] == ["test"] * 4 + ["train"] * 8
    assert "not read: 'patient_id'; 'split' and 'group' keep images apart" in source.warnings
    folder = write(tmp_path / "by folder", {f"{s}/{i}.png": PICTURES["img/0.png"] for s in ("train", "test") for i in range(4)})
    listed = "".join(f"{s}/{i}.png,{{}}{i % 2}\n" for s in ("train", "test") for i in range(4))
    for label, tested in (("c", 4), ("test", 4)):
        write(folder, {"list.csv": f"path,label\n{listed.format(*[label] * 8)}".encode()})
        assert sum(item.split == "test" for item in open_source(config(folder, "table")).items) == tested
    write(folder, {"list.csv": b"path,label\ntrain/0.png,train\ntrain/1.png,train\ntest/0.png,test\n"})  # the classes
    assert all(item.split == "train" for item in open_source(config(folder, "table")).items)
    shard(tmp_path / "shards/a.tar", {k: v for i in range(4) for k, v in sample(i, label=i % 2, split="train").items()})
    shard(tmp_path / "shards/b.tar", {k: v for i in range(4) for k, v in sample(i, label=i % 2, split="test", x=1).items()})
    source = open_source(config(tmp_path / "shards", "webdataset"))
    assert [item.split for item in source.items] == ["train"] * 4 + ["test"] * 4
    assert "not read: 'x'; 'split' and 'group' in .json keep images apart" in source.warnings


def test_the_exact_name_of_a_column_comes_before_other_spellings(tmp_path: Path) -> None:
    rows = [(f"img/{i}.png", f"c{i % 2}", f"name{i}", f"/far/{i}.png", f"p{i % 2}", str(i % 3)) for i in range(12)]
    heads = ("path", "label", "Label", "Path", "Group", "Split")
    text = "\n".join(",".join(row) for row in (heads, *rows)).encode()
    for place, content, name in (("csv", text, "l.csv"), ("parquet", as_parquet(text), "l.parquet")):
        source = open_source(config(folder_of(tmp_path / place, content, name), "table"))
        assert source.classes == ["c0", "c1"] and {item.split for item in source.items} == {"train"}  # folds are no splits
        assert not any(item.group for item in source.items)
        assert "not read: 'Group', 'Label', 'Path', 'Split'; 'split' and 'group' keep images apart" in source.warnings
    held = pa.table({"Image": [{"bytes": PICTURES["img/0.png"], "path": None}] * 6, "label": [0, 1] * 3})
    (tmp_path / "held/in").mkdir(parents=True)
    parquet.write_table(held, tmp_path / "held/in/x.parquet")
    assert len(open_source(config(tmp_path / "held/in", "table")).items) == 6


def test_folders_of_paths_are_no_splits_where_they_cannot_be(tmp_path: Path) -> None:
    pictures = {f"{s}/{i}.png": PICTURES["img/0.png"] for s in ("train", "test") for i in range(4)}
    for labels, taken in (("aabb", True), ("aaaa", True), ("ccdd", False)):
        listed = "path,label\n" + "".join(f"train/{i}.png,{c}\n" for i, c in enumerate("aabb"))
        listed += "".join(f"test/{i}.png,{c}\n" for i, c in enumerate(labels))
        source = open_source(config(write(tmp_path / labels, pictures | {"list.csv": listed.encode()}), "table"))
        assert sum(item.split == "test" for item in source.items) == (4 if taken else 0)
        word = "of the paths are taken for splits" if taken else "are no splits"
        assert f"the folders 'test' and 'train' {word}; a column 'split' says otherwise" in source.warnings


def test_a_shard_s_name_comes_before_its_json_and_what_is_of_no_sample_is_passed_over(tmp_path: Path) -> None:
    def read(name: str, split: Any) -> list[str]:
        folder = tmp_path / f"{name}-{split}"
        shard(folder / f"{name}.tar", {k: v for i in range(4) for k, v in sample(i, label=i % 2, split=split).items()})
        shard(folder / "train-9.tar", {k: v for i in range(4) for k, v in sample(i, label=i % 2).items()})
        source = open_source(config(folder, "webdataset"))
        assert any("'split'" in text.partition(";")[0] for text in source.warnings)  # not read, it says
        return [item.split for item in source.items if item.name.startswith(name)]

    assert read("x-test-0", "train") == ["test"] * 4
    for odd in (0, "train2017", ["train"]):
        assert read("x-test-1", odd) == ["test"] * 4
    meta = {"meta.json": b'{"label": ["cat", "dog"]}', "deep.json": b"[" * 100_000}
    shard(tmp_path / "meta/a.tar", {k: v for i in range(4) for k, v in sample(i).items()} | meta)
    assert open_source(config(tmp_path / "meta", "webdataset")).classes == ["0", "1"]


def test_a_separator_within_a_cell_is_refused_and_one_in_other_names_is_none(tmp_path: Path) -> None:
    cut = b"path,label\nimg/0.png,cat, tabby\nimg/1.png,dog\n"
    with pytest.raises(DataError, match=r"labels\.csv, line 2 has more cells than there are columns; a cell that holds ','"):
        open_source(config(folder_of(tmp_path, cut), "table"))
    tabs = "path\tlabel\tx, y, z, w\n" + "".join(f"img/{i}.png\tc{i % 2}\t1, 2\n" for i in range(8))
    assert open_source(config(folder_of(tmp_path / "tabs", tabs.encode(), "list.tsv"), "table")).classes == ["c0", "c1"]


def test_files_in_another_unicode_form_are_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"a\u0308.png": PICTURES["img/0.png"], "list.csv": "path,label\n\u00e4.png,cat\n".encode()})
    with pytest.raises(DataError, match="the same letters in another Unicode form"):
        open_source(config(folder, "table"))


def test_a_damaged_parquet_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no parquet file"):
        open_source(config(folder_of(tmp_path, b"PAR1 nothing", "x.parquet"), "table"))


def shard(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def sample(number: int, **more: Any) -> dict[str, bytes]:
    said = {f"{number}.json": json.dumps(more).encode()} if more else {f"{number}.cls": str(number % 2).encode()}
    return {f"{number}.png": corpus.encoded(corpus.picture(number)), **said}


def test_shards_give_images_with_the_class_beside_them(tmp_path: Path) -> None:
    shard(tmp_path / "in/train-000.tar", sample(0) | sample(1) | {"0.txt": b"a caption"})
    shard(tmp_path / "in/train-001.tar", sample(2, label=0) | sample(3, label=1) | sample(4, label=0, group="p"))
    shard(tmp_path / "in/val-000.tar", sample(5) | sample(6))
    data = run(tmp_path, config(tmp_path / "in", "webdataset", image_size=corpus.SIDE, holdout_fraction=0.0))
    assert data.meta["classes"] == ["0", "1"] and data.meta["name"] == "in"
    assert data.test_files == ["val-000.tar/5.png", "val-000.tar/6.png"] and data.test_labels.tolist() == [1, 0]
    assert data.train_labels.tolist() == [0, 1, 0, 1, 0] and data.audit["ignored"]["files"] == ["train-000.tar/0.txt"]
    assert (data.test_images[0] == np.asarray(corpus.picture(5)).transpose(2, 0, 1)).all()


def test_arrays_beside_pictures_are_no_images_and_a_class_of_unused_rows_is_none(tmp_path: Path) -> None:
    shard(tmp_path / "in/train-000.tar", sample(0) | sample(1) | {"0.npy": b"an embedding"})
    shard(tmp_path / "in/test-000.tar", sample(2) | sample(3))
    shard(tmp_path / "in/val-000.tar", sample(4, label="only here"))
    source = open_source(config(tmp_path / "in", "webdataset"))
    assert "train-000.tar/0.npy" in source.ignored and len(source.items) == 4
    assert source.classes == ["0", "1"]


def test_the_words_of_a_shard_s_name_are_its_split(tmp_path: Path) -> None:
    for number, name in enumerate(("imagenet1k-train-0000", "devices-000", "imagenet1k-validation-0000", "cats-000")):
        shard(tmp_path / f"in/{name}.tar", sample(2 * number) | sample(2 * number + 1))
    items = open_source(config(tmp_path / "in", "webdataset")).items
    assert {item.name.partition(".")[0] for item in items if item.split == "test"} == {"imagenet1k-validation-0000"}
    assert len(items) == 8


def test_of_a_sample_with_several_pictures_the_first_counts_and_the_rest_is_told(tmp_path: Path) -> None:
    picture = PICTURES["img/0.png"]
    shard(
        tmp_path / "in/train-0.tar",
        {k: v for i in range(4) for k, v in (sample(i) | {f"{i}.seg.png": picture, f"{i}.bin": b"\0"}).items()},
    )
    shard(tmp_path / "in/more/train-1.tar", sample(9))
    write(tmp_path / "in", {"train-2.tgz": b""})
    source = open_source(config(tmp_path / "in", "webdataset"))
    assert [item.name for item in source.items] == [f"train-0.tar/{i}.png" for i in range(4)]
    text = " ".join(source.warnings)
    assert "8 files beside the picture of a sample not used: 'train-0.tar/0.seg.png'" in text
    assert "2 folders or packed shards beside the shards not read: 'more', 'train-2.tgz'" in text
    shard(tmp_path / "other/a.tar", {"0.png": picture, "0.json": b'{"class": "cat"}', "1.png": picture, "1.txt": b"dog"})
    text = " ".join(open_source(config(tmp_path / "other", "webdataset")).warnings)
    assert "no labels: they are read from .cls and from 'label' in .json, and not from 'class', .txt" in text
    shard(tmp_path / "folders/a.tar", {f"{c}/{i}.png": picture for c in ("cat", "dog") for i in range(2)})
    text = " ".join(open_source(config(tmp_path / "folders", "webdataset")).warnings)
    assert "no labels: they are read from .cls and from 'label' in .json, and not from folders as 'cat'" in text


def test_what_other_systems_write_beside_a_sample_is_no_part_of_it(tmp_path: Path) -> None:
    files = {f"{i}.{kind}": data for i in range(4) for kind, data in (("png", PICTURES["img/0.png"]), ("CLS", b"%d" % (i % 2)))}
    boxes = {f"{i}.json": b'\xef\xbb\xbf[{"box": 1}]' for i in range(4)}
    shard(tmp_path / "in/a.tar", files | boxes | {"._0.CLS": b"\0\xff", "._0.png": b"\0"})
    source = open_source(config(tmp_path / "in", "webdataset"))
    assert source.classes == ["0", "1"] and len(source.items) == 4


@pytest.mark.parametrize(("one", "other", "fits"), [("0", "0.0", True), ("1", "null", True), ("cat", '"dog"', False)])
def test_two_labels_of_one_sample_are_compared_by_what_they_mean(tmp_path: Path, one: str, other: str, fits: bool) -> None:
    said = {"0.cls": one.encode(), "0.json": f'{{"label": {other}}}'.encode()}
    shard(tmp_path / "in/a.tar", {"0.png": PICTURES["img/0.png"]} | said | sample(1, label="5"))
    if fits:
        assert open_source(config(tmp_path / "in", "webdataset")).classes == [one, "5"]
    else:
        with pytest.raises(DataError, match=r"a\.tar: '0' has two labels, 'cat' and 'dog' of 0\.json"):
            open_source(config(tmp_path / "in", "webdataset"))


def test_lists_by_tabs_and_beside_their_images_are_read_and_told_where_they_are_not(tmp_path: Path) -> None:
    files = {f"{split}/{i}.png": PICTURES["img/0.png"] for split in ("train", "test") for i in range(4)}
    text = b"file_name,label\n" + b"".join(b"%d.png,c%d\n" % (i, i % 2) for i in range(4))
    folder = write(tmp_path / "in", files | {f"{split}/metadata.csv": text for split in ("train", "test")})
    source = open_source(config(folder, "table"))
    assert source.classes == ["c0", "c1"] and sum(item.split == "test" for item in source.items) == 4
    said = "no labels: lists as 'test/metadata.csv' are read by data.source: table"
    assert said in open_source(config(folder, "folder")).warnings
    tabs = listing("path=img/{}.png", "label=c{1}").replace(b",", b"\t")
    assert open_source(config(folder_of(tmp_path / "tabs", tabs, "list.tsv"), "table")).classes == ["c0", "c1"]
    excel = b"sep=;\n" + listing("path=img/{}.png", "label=c{1}").replace(b",", b";")
    assert open_source(config(folder_of(tmp_path / "excel", excel), "table")).classes == ["c0", "c1"]


def test_classes_of_one_split_and_of_another_case_are_told() -> None:
    with pytest.raises(DataError, match="class 'bird' is in test and not in train"):
        arranged([Row("0", "cat"), Row("1", "dog"), Row("2", "bird", "test")], "x")
    assert "'Cat' and 'cat' differ only in case" in arranged([Row("0", "Cat"), Row("1", "cat")], "x")[2][0]


def test_two_labels_of_one_key_are_refused_with_the_reason(tmp_path: Path) -> None:
    files = {f"scan0.{i}.{kind}": data for i in range(2) for kind, data in (("png", PICTURES["img/0.png"]), ("cls", b"%d" % i))}
    shard(tmp_path / "in/x.tar", files)
    with pytest.raises(DataError, match=r"x.tar: 'scan0' has two labels, '0' and '1' of scan0.1.cls; .* no other point"):
        open_source(config(tmp_path / "in", "webdataset"))


def test_minus_one_among_named_classes_is_no_label() -> None:
    rows = [Row("a", 0), Row("b", 1), Row("c", -1, "test"), Row("d", 1, "validation")]
    items, classes, warnings = arranged([replace(row, among=NAMES) for row in rows], "x")
    assert classes == ["cat", "dog"] and [item.label for item in items] == [0, 1, -1]
    lost = "1 image of the test split has no label: trained on without them"
    assert items[2].split == "train" and warnings == ["1 image of the split val is not used", lost]
    with pytest.raises(DataError, match="the label 2 is none of its 2 classes"):
        arranged([replace(row, among=NAMES) for row in [*rows, Row("e", 2)]], "x")


def test_shards_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no shards \(\.tar\); for pictures in folders use data\.source: folder"):
        open_source(config(tmp_path / "empty", "webdataset"))
    shard(tmp_path / "a/x.tar", sample(0) | {"0.json": b"[1"})
    with pytest.raises(DataError, match=r"x\.tar/0\.json is no text, or no JSON"):
        open_source(config(tmp_path / "a", "webdataset"))
    shard(tmp_path / "b/x.tar", {"0.txt": b"x"})
    with pytest.raises(DataError, match="the shards hold no images"):
        open_source(config(tmp_path / "b", "webdataset"))
