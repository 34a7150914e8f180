"""What folders mean: classes, splits, images without labels; and what can be read in two ways is refused."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tasks.prepare.class_folders import ClassFolder
from tasks.prepare.layout import Layout, arrange
from tasks.runtime.errors import DataError
from tests.support import corpus, project
from tests.tasks.prepare.test_prepare import class_folders, config, run, write


def read(*groups: str, rule: ClassFolder | None = None) -> Layout:
    """The layout of ``FOLDER xN`` groups: N images each; no number means 6."""
    names = []
    for group in groups:
        folder, _, count = group.partition(" x")
        names += [f"{folder}/{i}.png" if folder != "." else f"{i}.png" for i in range(int(count or 6))]
    return arrange(names, [], "pictures", rule)


def counts(layout: Layout) -> Counter[tuple[str, str]]:
    """Images by (split, class)."""
    return Counter((item.split, layout.classes[item.label] if item.label >= 0 else "-") for item in layout.items)


@pytest.mark.parametrize("name", ["train", "Train", "test", "training", "testing", "validation", "val"])
def test_a_split_s_name_among_classes_is_a_class(name: str) -> None:
    layout = read("bicycle", "bus", "car", name)
    assert set(layout.classes) == {"bicycle", "bus", "car", name}
    assert layout.warnings == [
        f"{name!r} (6) is taken for a class; if it is a split, put the classes into train, beside it",
    ]
    assert counts(layout) == {("train", c): 6 for c in layout.classes}


@pytest.mark.parametrize("around", ["dataset", "dataset/images", "my photos/all"])
def test_folders_around_everything_are_looked_through_and_named(around: str) -> None:
    for inside in (("cat", "dog"), ("train/cat", "train/dog", "test/cat", "test/dog")):
        layout = read(*(f"{around}/{folder}" for folder in inside))
        assert layout.classes == ["cat", "dog"] and {split for split, _ in counts(layout)} == {i.split for i in layout.items}
        assert layout.warnings == [f"all images lie in {around}: its folders are taken for those of pictures"]
    boxes = read(f"{around}/train", f"{around}/val x3")  # as detectors have them: images/train beside labels/train
    assert not boxes.classes and counts(boxes) == {("train", "-"): 6, ("test", "-"): 3}
    with pytest.raises(DataError, match="one class only"):
        read("cat")


def test_unlabeled_beside_classes_is_no_class(tmp_path: Path) -> None:
    names = [f"{folder}/{i}.png" for folder in ("0", "1", "unlabeled") for i in range(4)]
    layout = arrange(names, ["0", "1", "unlabeled"], "pictures")
    assert counts(layout) == {("train", "0"): 4, ("train", "1"): 4, ("train", "-"): 4}
    with pytest.raises(DataError, match="1 class folder holds no images: '2' in train"):
        arrange(names, ["0", "1", "2", "unlabeled"], "pictures")


def test_folders_without_images_are_no_classes_where_something_else_lies_in_them(tmp_path: Path) -> None:
    beside = {"docs/read.txt": b"x", "Annotations/0.xml": b"x", "lost+found/0.png": b"x", "$RECYCLE.BIN/0.png": b"x"}
    data = run(tmp_path, config(write(tmp_path / "in", class_folders(4) | beside)))
    assert data.meta["classes"] == ["bird", "cat", "fish"]
    assert "no image lies in 'Annotations', 'docs': no class" in " ".join(data.audit["warnings"])
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir()
    with pytest.raises(DataError, match="2 class folders hold no images: 'a' in train, 'b' in train; fill what is empty"):
        run(tmp_path, config(tmp_path / "in"), "again")


def test_classes_of_one_image_have_no_label_and_are_counted(tmp_path: Path) -> None:
    rare = {f"rare{i}/0.png": corpus.encoded(corpus.picture(700 + i)) for i in range(5)}
    folder = write(tmp_path / "in", class_folders(4) | rare)
    data = run(tmp_path, config(folder))
    assert data.meta["classes"] == ["bird", "cat", "fish"] and (data.train_labels[:] < 0).sum() == 5
    said = "5 classes have one image, which cannot be in both splits: 'rare0', 'rare1', 'rare2' and 2 more; trained on"
    assert any(text.startswith(said) for text in data.audit["warnings"])
    assert len(run(tmp_path, config(folder, test_fraction=0.0), "all").meta["classes"]) == 8


@pytest.mark.parametrize("folders", [("JPEGImages", "SegmentationClass"), ("A", "B", "label"), ("imgs", "gt"), ("LR", "HR")])
def test_pictures_and_what_belongs_to_them_are_told(folders: tuple[str, ...]) -> None:
    assert any("look like parts of one set of images" in text for text in read(*folders).warnings)
    assert not read("cat", "target", "dog").warnings and not read("A", "B").warnings


@pytest.mark.parametrize("name", ["unlabeled", "Unlabelled"])
def test_unlabeled_images_inside_train_are_no_class_either(name: str) -> None:
    names = [f"train/{folder}/{i}.png" for folder in ("0", "1", name, f"{name}/more") for i in range(4)]
    layout = arrange(names, ["train", "train/0", "train/1", f"train/{name}", f"train/{name}/more"], "pictures")
    assert counts(layout) == {("train", "0"): 4, ("train", "1"): 4, ("train", "-"): 8}


LOOK_AGAIN = {
    "splits beside something else": (
        ("data/train/a", "data/test/a", "figures"),
        "'data' holds train and test, beside 'figures'; set data.path to pictures/data",
    ),
    "the same further down": (
        ("all/data/train/a", "all/data/test/a", "all/figures"),
        "'data' holds train and test, beside 'figures'; set data.path to pictures/all/data",
    ),
    "splits below the classes": (
        ("cat/train", "cat/test", "dog/train", "dog/test"),
        "'cat', 'dog' hold train and test; put the split above the class: train/CLASS",
    ),
    "splits by a part of their names beside something else": (
        ("data/train2017/a", "data/val2017/a", "figures"),
        "'data' holds train and test, beside 'figures'; set data.path to pictures/data",
    ),
    "such splits below the classes": (
        ("cat/train_images/x", "cat/test_images/x", "dog/train_images/x", "dog/test_images/x"),
        "'cat', 'dog' hold train and test; put the split above the class",
    ),
    "classes one level down": (
        ("all/cat", "all/dog", ". x1"),
        r"one class only \('all'\); if 'cat', 'dog' in it are the classes, put them one level up",
    ),
    "a split beside the classes that are in it": (
        ("cat", "dog", "valid/cat", "valid/dog"),
        "'cat', 'dog' are there twice, beside 'valid' and in it; if 'valid' is a split, move those beside it into train",
    ),
    "a test of other folders": (
        ("train/cat", "train/dog", "test/b1", "test/b2"),
        r"no folder of test \('b1', 'b2'\) is a class of train; rename them",
    ),
}


@pytest.mark.parametrize("case", LOOK_AGAIN)
def test_folders_in_another_order_are_refused_with_the_right_one(case: str) -> None:
    folders, said = LOOK_AGAIN[case]
    with pytest.raises(DataError, match=said):
        read(*folders)


BOTH = {(split, c): 6 for split in ("train", "test") for c in ("ice", "sea")}
SEGMENTS = [f"seg_{split}/seg_{split}/{c}" for split in ("train", "test") for c in ("ice", "sea")]
SPLIT_BY_A_PART = {
    ("train2017", "val2017 x3"): {("train", "-"): 6, ("test", "-"): 3},
    ("train_images/ice", "train_images/sea", "test_images x3"): {("train", "ice"): 6, ("train", "sea"): 6, ("train", "-"): 3},
    ("train_set/ice", "train_set/sea", "test_set/ice", "test_set/sea"): BOTH,
    ("contest_train/ice", "contest_train/sea", "contest_test/ice", "contest_test/sea"): BOTH,
    (*SEGMENTS, "seg_pred/seg_pred x5"): BOTH,
    ("train /ice", "train /sea", "test /ice", "test /sea"): BOTH,
}


@pytest.mark.parametrize("folders", SPLIT_BY_A_PART)
def test_splits_by_a_part_of_their_names_are_splits_and_told(folders: tuple[str, ...]) -> None:
    layout = read(*folders)
    assert counts(layout) == SPLIT_BY_A_PART[folders]
    by_part = [text for text in layout.warnings if "taken for splits by a part of their names" in text]
    assert bool(by_part) == (folders[0][5] != " ")
    if folders[0].startswith("seg"):
        assert "5 images outside the folders seg_test and seg_train are not used: 'seg_pred' (5)" in layout.warnings


@pytest.mark.parametrize(
    "names", [("bullet_train", "steam_train", "car"), ("train_station", "test_tube", "dog"), ("devices", "latest")]
)
def test_such_words_in_the_names_of_classes_make_no_split(names: tuple[str, ...]) -> None:
    layout = read(*names)
    assert layout.classes == sorted(names) and not layout.warnings


@pytest.mark.parametrize(
    "folders",
    [
        ("trainA", "trainB", "testA", "testB"),
        ("trainA/x", "trainA/y", "testA/x", "testA/y", "trainB/x", "trainB/y"),
    ],
)
def test_sets_of_splits_are_refused_with_both_readings(folders: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"can be read in two ways\. Either .* Or each of"):
        read(*folders)


def test_splits_that_are_there_again_further_down_are_counted() -> None:
    again = [f"chest/{inner}{split}/{c}" for inner in ("", "chest/") for split in ("train", "test") for c in ("ill", "well")]
    layout = read(*again)
    assert counts(layout) == {(split, c): 6 for split in ("train", "test") for c in ("ill", "well")}
    assert "24 images outside the folders test and train are not used: 'chest' (24)" in layout.warnings


def test_images_and_their_masks_are_no_two_classes_without_a_word() -> None:
    assert "the classes 'images', 'masks' look like parts of one set" in read("images", "masks").warnings[0]
    assert not read("images", "cats").warnings


def test_images_that_nobody_reads_are_counted(tmp_path: Path) -> None:
    """A class whose name begins with a dot, a class that is a link to a hidden folder, arrays beside pictures."""
    pictures = class_folders(4)  # bird, cat, fish
    hidden = {name.replace("fish", ".net"): data for name, data in pictures.items() if name.startswith("fish")}
    shown = {name: data for name, data in pictures.items() if not name.startswith("fish")}
    folder = write(tmp_path / "in", shown | hidden | {"bird/x.npy": b"", ".ipynb_checkpoints/0.png": b"", "cat/._0.png": b""})
    text = " ".join(run(tmp_path, config(folder, max_bad=9)).audit["warnings"])
    assert "4 images in hidden folders are not used: '.net' (4)" in text and "1 .npy file lies beside pictures" in text
    (folder / "fish").symlink_to(".net")
    data = run(tmp_path, config(folder, max_bad=9))
    assert data.meta["classes"] == ["bird", "cat", "fish"]


def test_labels_of_test_alone_are_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match=r"nothing is learned of its classes; put .* or .* make these a task"):
        read("train", "test/cat", "test/dog")


def test_valid_and_invalid_are_two_classes() -> None:
    assert read("valid", "invalid").classes == ["invalid", "valid"]


TWO_WAYS = {
    "one other folder": ("train", "masks"),
    "two splits beside others": ("train", "test", "bus", "car"),
    "class folders everywhere": ("train/cat", "train/dog", "extra/cat", "extra/dog"),
    "subfolders in the others": ("train", "bus/red", "car/blue"),
}


@pytest.mark.parametrize("case", TWO_WAYS)
def test_what_can_be_read_in_two_ways_is_refused_with_both(case: str) -> None:
    with pytest.raises(DataError) as error:
        read(*TWO_WAYS[case])
    text = str(error.value)
    assert "two ways" in text and "move" in text and "is a class" in text and "'train'" in text
    assert "\n" not in text


def test_other_folders_beside_splits_with_classes_are_counted() -> None:
    layout = read("train/cat", "train/dog", "test/cat", "test/dog", "masks x7", "raw/x x3", ". x2")
    assert layout.classes == ["cat", "dog"] and len(layout.items) == 24
    assert layout.warnings == [
        "12 images outside the folders test and train are not used: 'masks' (7), 'raw' (3), '0.png' (1), '1.png' (1)"
    ]


@pytest.mark.parametrize("test", ["test", "test/unknown", "Testing"])
def test_a_test_folder_without_labels_is_trained_on(test: str) -> None:
    layout = read("train/cat", "train/dog", f"{test} x5")
    assert counts(layout) == {("train", "cat"): 6, ("train", "dog"): 6, ("train", "-"): 5}
    top = test.partition("/")[0]
    (said,) = layout.warnings
    assert said.startswith(f"5 images in {top} have no labels") and "data.test_fraction" in said


def test_a_labelled_val_scores_where_test_has_no_labels() -> None:
    layout = read("train/cat", "train/dog", "test x5", "val/cat x2", "val/dog x2")
    assert counts(layout) == {
        ("train", "cat"): 6,
        ("train", "dog"): 6,
        ("train", "-"): 5,
        ("test", "cat"): 2,
        ("test", "dog"): 2,
    }
    assert layout.warnings == ["5 images in test have no labels: trained on without them; scores use val"]


def test_a_val_without_labels_is_trained_on_too() -> None:
    layout = read("train/cat", "train/dog", "test/cat x2", "test/dog x2", "val x3")
    assert counts(layout)["train", "-"] == 3 and counts(layout)["test", "dog"] == 2
    assert "scores use test" in layout.warnings[0]


def test_loose_images_of_a_labelled_test_are_trained_on() -> None:
    layout = read("train/cat", "train/dog", "test/cat x2", "test/dog x2", "test x3", "train x4")
    assert counts(layout)["train", "-"] == 7 and sum(n for (split, _), n in counts(layout).items() if split == "test") == 4
    assert [re.sub(r":.*", "", text) for text in layout.warnings] == [
        "4 training images lie in no class folder",
        "3 test images lie in no class folder",
    ]


def test_a_test_split_without_any_label_stays_a_test_split() -> None:
    assert counts(read("train", "test x3")) == {("train", "-"): 6, ("test", "-"): 3}
    assert counts(read("train", "val x3")) == {("train", "-"): 6, ("test", "-"): 3}


def test_a_labelled_test_that_is_used_leaves_val_out_and_says_so() -> None:
    layout = read("train/cat", "train/dog", "test/cat", "test/dog", "val/cat x4", "val/dog x4")
    assert len(layout.items) == 24 and layout.warnings[0].startswith("8 images outside the folders test and train are not used")


DEEPER = {
    "places": (("a/abbey", "a/airfield", "b/bakery", "b/bank"), ["abbey", "airfield", "bakery", "bank"]),
    "the same inside": (("left/cat", "left/dog", "right/cat", "right/dog"), ["cat", "dog"]),
    "sites": (
        ("hospital_A/CNV", "hospital_A/DME", "hospital_B/DRUSEN", "hospital_B/NORMAL"),
        ["CNV", "DME", "DRUSEN", "NORMAL"],
    ),
    "parts of one set": (("images_001/images", "images_002/images"), None),
    "dates": (("2023/01/02", "2024/05/06"), ["02", "06"]),
    "a camera's": (("100CANON/a", "100CANON/b", "101CANON/c"), ["a", "b", "c"]),
    "folds": (("fold0/a", "fold0/b", "fold1/a", "fold1/b"), ["a", "b"]),
}


@pytest.mark.parametrize("case", DEEPER)
def test_folders_that_may_be_no_classes_are_asked_for_and_the_answer_counts(case: str) -> None:
    folders, deepest = DEEPER[case]
    tops = sorted({folder.partition("/")[0] for folder in folders})
    with pytest.raises(DataError, match=r"can be read in several ways: set data.class_folder to top \(2 classes: ") as error:
        read(*folders)
    assert ("or to deepest" in str(error.value)) == bool(deepest) and "\n" not in str(error.value)
    assert read(*folders, rule="top").classes == tops and not read(*folders, rule="none").classes
    assert len(read(*folders, rule="none").items) == 6 * len(folders)
    if deepest:
        assert read(*folders, rule="deepest").classes == deepest


def test_flat_folders_are_classes_whatever_they_are_called() -> None:
    for names in (("label_0", "label_1"), ("001_cats", "002_dogs"), ("depth_10", "depth_20"), ("1", "2", "3")):
        assert read(*names).classes == sorted(names) and not read(*names).warnings
    for names in (("1998", "1999"), ("set1", "set2"), ("100CANON", "101CANON"), ("trip/2023/05", "trip/2023/06")):
        (said,) = [text for text in read(*names).warnings if "set data.class_folder: none" in text]
        assert "are taken for classes; if they are none" in said


def test_masks_beside_the_images_of_a_class_are_named() -> None:
    folders = [f"{c}/{kind}" for c in ("covid", "normal") for kind in ("images", "masks")]
    with pytest.raises(DataError, match=r"the folders in the classes 'images', 'masks' look like parts of one set"):
        read(*folders)
    assert "the folders in the classes 'images', 'masks'" in read(*folders, rule="top").warnings[-1]


def test_the_deepest_folders_are_compared_across_splits() -> None:
    with pytest.raises(DataError, match="has one class only"):
        read("a/cat", "b/cat", rule="deepest")
    with pytest.raises(DataError, match="'cat' there is spelled otherwise"):
        read("train/a/Cat", "train/a/dog", "test/a/cat", "test/a/dog", rule="deepest")


def test_labels_below_other_folders_are_seen_in_each_split() -> None:
    """The first folders differ between train and test; those inside them are the same."""
    places = [f"train/animals/{c}" for c in ("cat", "dog")] + [f"test/wild/{c}" for c in ("cat", "dog")]
    labelled = {(split, c): 6 for split in ("train", "test") for c in ("cat", "dog")}
    assert counts(read(*places, rule="deepest")) == labelled
    with pytest.raises(DataError, match=r"folders inside them: 'cat', 'dog'\. Set data.class_folder to deepest if those are"):
        read(*places)
    assert counts(read("train/a/cat", "train/b/dog", "val/wild x3", "val/wild/unlabeled", rule="top"))["train", "-"] == 9
    assert counts(read("animals/cat", "animals/dog", "animals/unlabeled x3", rule="deepest"))["train", "-"] == 3
    assert counts(read("train/cat/images", "train/dog/images", "test/images x3"))["train", "-"] == 3


def test_classes_that_are_there_again_in_another_folder_are_asked_for() -> None:
    for again in ("augmented", "archive"):
        folders = (f"{again}/cat", f"{again}/dog", "cat", "dog")
        with pytest.raises(DataError, match=f"'cat', 'dog' are there twice, beside '{again}' and in it") as error:
            read(*folders)
        assert "deepest" in str(error.value) and "top" in str(error.value)
        assert read(*folders, rule="deepest").classes == ["cat", "dog"]
        assert read(*folders, rule="top").classes == [again, "cat", "dog"]
    with pytest.raises(DataError, match="are there twice, beside 'train' and in it"):
        read("train/cat", "train/dog", "train/train/cat", "train/train/dog", "test/cat", "test/dog")


def test_folders_that_hold_a_name_of_another_are_no_classes_twice() -> None:
    """Parts of a hash, months and days, one class within another."""
    for folders in (("00/00", "00/01", "00/a1", "01/00", "01/b2"), ("2021/01", "2021/02", "2022/01", "2022/03")):
        with pytest.raises(DataError, match="can be read in several ways") as error:
            read(*folders)
        assert "none" in str(error.value)
    for folders in (("0", "1", "2", "2/1"), ("A/B", "B/A"), ("cat", "dog", "other", "cat/other")):
        assert len(read(*folders).classes) in (2, 3)
    masks = [f"{top}train/{c}" for top in ("", "masks/") for c in "ab"] + ["test/a", "test/b", "masks/test/a", "gt/test/a"]
    assert "images outside the folders test and train are not used" in read(*masks).warnings[0]


def test_sites_of_one_split_alone_are_asked_for_too() -> None:
    sites = [f"train/{site}/{c}" for site in ("hospA", "hospB") for c in ("CNV", "DME")]
    with pytest.raises(DataError, match=r"train and test have no class in common .* Set data.class_folder to deepest"):
        read(*sites, "test/CNV", "test/DME")
    assert read(*sites, "test/CNV", "test/DME", rule="deepest").classes == ["CNV", "DME"]
    with pytest.raises(DataError, match="'bird', 'cat', 'dog' hold train, test or both; put the split above the class"):
        read("cat/train", "cat/test", "dog/train", "bird/train")


def test_folders_that_train_and_test_do_not_share_are_no_classes() -> None:
    """Films of each class: the ones of the test are others."""
    films = ["train/cat/v1", "train/cat/v2", "train/dog/v3", "train/dog/v4", "test/cat/v5", "test/cat/v6", "test/dog/v7"]
    layout = read(*films)
    assert layout.classes == ["cat", "dog"] and layout.warnings[0].endswith("'cat/v5' and 4 more")
    with pytest.raises(DataError, match="or to deepest"):
        read(*(f"{split}/{place}/{c}" for split in ("train", "test") for place in "ab" for c in ("cat", "dog")))


def test_folders_inside_some_classes_are_told() -> None:
    assert read("cat/front", "cat", "dog/front", "dog/back").warnings == [
        "3 folders inside the classes are not told apart: 'cat/front', 'dog/back', 'dog/front' (data.class_folder: deepest"
        " takes those for the classes)"
    ]
    assert (
        read("Aves/Pica_pica", "Plantae/Acer_rubrum").warnings[0].startswith("2 folders inside the classes are not told apart")
    )
    assert not read("cat/images", "dog/images").warnings


def test_a_rule_holds_within_the_splits() -> None:
    folders = [f"{split}/{top}" for split in ("train", "test") for top in ("animals/cat", "animals/dog", "things/car")]
    assert counts(read(*folders, rule="deepest")) == {(s, c): 6 for s in ("train", "test") for c in ("car", "cat", "dog")}
    assert counts(read("train/good", "test/good", "test/broken", rule="none")) == {("train", "-"): 6, ("test", "-"): 12}
    with pytest.raises(DataError, match=r"or set data.class_folder: none to take the images without labels"):
        read("train/good", "test/good", "test/broken")
    with pytest.raises(DataError, match=r"class 'Cat' has no images in test; 'cat' there is spelled otherwise"):
        read("train/Cat", "train/dog", "test/cat", "test/dog")


@pytest.mark.parametrize(
    ("folders", "both"),
    [
        (("trainset/a", "trainset/b", "testset/a", "testset/b"), False),
        (("train80/a", "train80/b", "test20/a", "test20/b"), True),
    ],
)
def test_sets_and_shares_in_the_names_of_splits(folders: tuple[str, ...], both: bool) -> None:
    if both:
        with pytest.raises(DataError, match="can be read in two ways"):
            read(*folders)
    else:
        assert counts(read(*folders)) == {(split, c): 6 for split in ("train", "test") for c in "ab"}


# ---------------------------------------------------------------------- as a user sees it


def test_the_terminal_says_classes_split_and_findings_in_three_lines(tmp_path: Path) -> None:
    home = project.copy_project(tmp_path / "p")
    pictures = class_folders(8, "train/") | {f"test/{i}.png": corpus.encoded(corpus.picture(900 + i)) for i in range(5)}
    others = {f"cat/{name}": b"text" for name in ("notes.txt", ".hidden.jpg", "a,1.xmp", "b.xmp", "c.xmp")}
    write(home / "mine", pictures | {"masks/0.png": corpus.encoded(corpus.picture(990))} | others)
    project.set_params(home, {"data": {"source": "folder", "path": "mine", "image_size": 16}})
    done = project.command(home, "tasks.prepare")
    assert done.returncode == 0, done.stderr
    name, split, audit = done.stdout.splitlines()
    assert name == "mine: 3 classes (bird, cat, fish)"
    assert split == "split: 21 training images (3 of them held out for choices, 5 without a label), 8 test images"
    assert audit.startswith("audit: 5 images in test have no labels: trained on without them; scores use data.test_fraction")
    assert "1 image outside the folders test and train is not used: 'masks' (1)" in audit
    assert audit.endswith("; 5 other files are not read (cat/.hidden.jpg, 'cat/a,1.xmp', cat/b.xmp and 2 more)")
