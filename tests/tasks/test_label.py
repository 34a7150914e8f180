"""Choosing where the data have no labels: nothing without, and by a few that somebody gives, whatever they do to the file."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_core.labelling import explained_by_few
from tasks import few_labels, label
from tasks.choice import champion
from tasks.conclusions import worth_it
from tasks.few_labels import FILE
from tasks.leaderboard import to_csv, to_text
from tasks.prepare.layout import one_per_line
from tasks.register.registration import aliases
from tasks.report.page import documents
from tasks.results import load_results, ranked
from tasks.runtime import files
from tasks.runtime.errors import DataError, UsageError
from tasks.verdict import judge
from tests.support.example_results import write_project

METHODS = ("jigsaw", "rotation", "simclr", "raw_pixels")
NAMES = [f"photos/{number}.png" for number in range(400)]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four encoders of images without labels, in whose features there are ten classes; simclr's are the clearest."""
    root = write_project(tmp_path / "p", METHODS, labelled=False)
    files.write_text(root / "data/prepared/train_files.txt", one_per_line(NAMES))
    files.seal(root / "data/prepared")
    monkeypatch.chdir(root)
    return root


def fill(path: Path, classes: int = 10, keep: int | None = None) -> None:
    """The labels that a person would give, for the first ``keep`` lines."""
    with path.open() as file:
        lines = list(csv.DictReader(file))
    for number, line in enumerate(lines):
        line["label"] = f"class {NAMES.index(line['file']) % classes}" if keep is None or number < keep else ""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, few_labels.COLUMNS)
        writer.writeheader()
        writer.writerows(lines)


def group(project: Path, size: int) -> np.ndarray:
    """Make each ``size`` training images belong together; their groups."""
    groups = np.arange(400) // size
    np.save(project / "data/prepared/train_groups.npy", groups)
    np.save(project / "data/prepared/test_groups.npy", np.arange(300))
    files.seal(project / "data/prepared")
    return groups


def test_before_a_run_there_is_nothing_to_label(project: Path) -> None:
    (project / "data/prepared/MANIFEST.json").unlink()
    with pytest.raises(UsageError, match="no images are prepared here; run make run first"):
        label.pick(project, 20)


def test_nothing_is_chosen_without_labels_and_everything_says_so(project: Path) -> None:
    results, missing = load_results(project)
    verdict = judge(results)
    assert champion(results) is None and verdict.best is None
    assert [row.method for row in verdict.rows] == list(METHODS)  # as they are listed: no indicator sorts them
    assert aliases(results) == {"jigsaw": "jigsaw-0", "rotation": "rotation-0", "simclr": "simclr-0"}
    assert "python -m tasks.label picks 100 images" in worth_it(verdict)[0]
    texts = documents(project, verdict, missing)
    assert "none is named champion" in texts["report.html"] and "has collapsed" not in texts["report.html"]
    assert "not sorted" in to_text(verdict) and "none is named champion" in texts["leaderboard.md"]


def test_the_labels_of_the_picked_images_choose(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label.pick(project, 60)
    with (project / FILE).open() as file:
        lines = list(csv.DictReader(file))
    assert [line["number"] for line in lines] == [str(n) for n in range(1, 61)] and not any(line["label"] for line in lines)
    assert len({line["file"] for line in lines}) == 60 and {line["file"] for line in lines} <= set(NAMES)
    assert Image.open(project / label.SHEET).size[0] > 900
    assert champion(load_results(project)[0]) is None  # an empty file says nothing
    fill(project / FILE)
    capsys.readouterr()
    label.take(project, FILE)
    said = capsys.readouterr().out
    assert "60 labels, 10 classes" in said and "The choice: simclr-0; a regression on its features predicts" in said
    assert "Do not use this yet" not in said
    assert "Fewer than 100 labels" in said
    results, missing = load_results(project)
    best = champion(results)
    assert best is not None and best.name == "simclr-0" == aliases(results)["champion"] and best.few is not None
    assert best.few.labels == 60 and ranked(results)[0].method == "simclr"
    texts = documents(project, judge(results), missing)
    assert "60 labelled images choose" in texts["report.html"] and "few labels" in texts["leaderboard.md"]
    assert f",{best.few.explained}," in to_csv(judge(results))


def test_a_choice_that_explains_nothing_is_not_to_be_used_and_everything_says_so(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0)
    for method in ("jigsaw", "rotation", "simclr"):
        features = {
            split: noise.normal(size=(count, 64)).astype(np.float32) for split, count in (("train", 400), ("test", 300))
        }
        files.save_tensors(project / f"out/features/{method}-0.safetensors", features)
    label.pick(project, 60)
    fill(project / FILE)
    capsys.readouterr()
    label.take(project, FILE)
    said = capsys.readouterr().out
    assert "predicts nothing of their labels (R2 -" in said and "below 0 is worse than without any features" in said
    results = load_results(project)[0]
    assert "None is chosen." in said and champion(results) is None and "champion" not in aliases(results)
    warned = next(
        line for line in said.splitlines() if line.startswith("Do not use this yet: by 60 labels raw pixels are better than ")
    )
    texts = documents(project, judge(load_results(project)[0]), [])
    assert warned in texts["leaderboard.md"] and warned.partition(",")[0] in texts["report.html"]
    assert "predicts nothing of their labels" in texts["report.html"]


def test_a_file_from_elsewhere_is_put_in_its_place(project: Path, tmp_path: Path) -> None:
    label.pick(project, 40)
    fill(project / FILE, classes=2)
    elsewhere = tmp_path / "from a spreadsheet.csv"
    elsewhere.write_text("\ufeffsep=;\n" + (project / FILE).read_text().replace(",", ";"), encoding="utf-8")
    (project / FILE).unlink()
    label.take(project, elsewhere)
    found = few_labels.read(project / FILE, few_labels.pool(project))
    assert found is not None and len(found.rows) == 40 and found.classes == ("class 0", "class 1")


def test_an_image_is_not_predicted_from_those_it_belongs_together_with(project: Path) -> None:
    groups = group(project, 8)
    label.pick(project, 60)
    fill(project / FILE)
    found, (best, *_) = few_labels.read(project / FILE, few_labels.pool(project)), ranked(load_results(project)[0])
    few = best.best.few
    assert found is not None and few is not None and few.groups is not None
    rows = list(found.rows)
    assert few.groups.tolist() == groups[rows].tolist() and few.units < few.labels == 60
    features = torch.from_numpy(files.load_tensors(project / "out/features/simclr-0.safetensors")["train"][rows])
    alone, apart = (explained_by_few(features, torch.tensor(found.labels), own) for own in (None, torch.from_numpy(few.groups)))
    assert best.method == "simclr" and few.each.tolist() == apart.tolist() != alone.tolist()


def test_labels_of_one_group_of_images_are_refused(project: Path) -> None:
    group(project, 400)
    label.pick(project, 60)
    fill(project / FILE)
    with pytest.raises(DataError, match="all labels are of one group of images"):
        load_results(project)


def test_lines_without_a_label_are_left_out_and_counted(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label.pick(project, 40)
    fill(project / FILE, classes=2, keep=30)
    label.take(project, FILE)
    said = capsys.readouterr().out
    counts = re.search(r"30 labels, 2 classes: class 0 (\d+), class 1 (\d+); 10 images have no label yet", said)
    assert counts and sum(map(int, counts.groups())) == 30


def test_labels_are_not_overwritten_and_images_without_labels_are(project: Path) -> None:
    label.pick(project, 20)
    label.pick(project, 30)
    fill(project / FILE, classes=2)
    with pytest.raises(UsageError, match=r"has labels; .* --count 60 adds images"):
        label.pick(project, 30)
    (project / FILE).write_text("number,file,label\n1,gone.png,cat\n")
    with pytest.raises(DataError, match=r"gone\.png, which is not among"):
        label.pick(project, 20)


def test_more_images_are_added_to_those_that_have_labels(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label.pick(project, 20)
    fill(project / FILE, keep=15)
    before = (project / FILE).read_text().splitlines()
    label.pick(project, 50)
    assert "35 images to label of 50, shown in" in capsys.readouterr().out
    after = (project / FILE).read_text().splitlines()
    assert after[:21] == before and len(after) == 51 and len({line.split(",")[1] for line in after[1:]}) == 50
    assert after[-1].startswith("50,") and after[-1].split(",")[2] == ""
    new = [NAMES.index(line.split(",")[1]) for line in after[21:]]
    assert min(new) < 50 and max(new) > 350, "from everywhere"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("number,file,label\n1,photos/1.png,\n2,photos/2.png,  \n", "has no label yet"),
        ("number,file,label\n1,photos/1.png,a\n2,photos/2.png,a\n", "all 2 labels are 'a'"),
        ("number,file,label\n1,photos/1.png,a\n2,photos/2.png,a\n3,photos/3.png,b\n", "only 'a' has more than one image"),
        ("number,file,label\n1,photos/1.png,a\n2,photos/2.png,b\n3,photos/3.png,c\n", "the 3 labels are all different"),
        ("number,file,label\n1,photos/1.png,bar\n2,photos/2.png,Bar \n3,photos/3.png,c\n", "'Bar' and 'bar' are one class"),
        ("number,file,label\n1,C:\\photos\\1.png,a\n", r"names C:\\photos\\1.png, which is not among"),
        ("number,file,label\n" + "".join(f"{n},{n},a\n" for n in range(9)), "0, 1, 2, 3, 4 and 4 more, which are not among"),
        ("number,file,label\n1,photos/1.png,a\n2,photos/1.png,b\n", "photos/1.png more than once"),
        ("number,file,label,label\n1,photos/1.png,,a\n", "has two columns label"),
        ("number,file,class\n1,photos/1.png,a\n", "has no column label"),
        ("", "has no column file and no column label"),
        ("number,file,label\n7\n", "line 2 has no file"),
        ("sep=,\nnumber,file,label\n\n7\n", "line 4 has no file"),
        ('number,file,label\n1,"photos/1.png,a\n', "save it as CSV"),
    ],
)
def test_a_file_that_tells_nothing_is_refused_in_one_line(project: Path, text: str, message: str) -> None:
    path = project / "mine.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        label.take(project, path)
    assert not (project / FILE).exists()


def test_what_is_no_text_or_not_there_is_refused(project: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        label.take(project, project / "nowhere.csv")
    (project / "mine.csv").write_bytes(b"number,file,label\n1,\xff\xfe,a\n")
    with pytest.raises(DataError, match="not UTF-8"):
        label.take(project, project / "mine.csv")


def test_a_damaged_file_in_its_place_stops_the_report_with_the_reason(project: Path) -> None:
    (project / FILE).parent.mkdir()
    (project / FILE).write_text("number,file,label\n1,photos/1.png,a\n")
    with pytest.raises(DataError, match="needs two classes"):
        load_results(project)
    (project / "mended.csv").write_text("number,file,label\n" + "".join(f"{n},{NAMES[n]},{n % 2}\n" for n in range(40)))
    label.take(project, project / "mended.csv")
    assert champion(load_results(project)[0]) is not None


@pytest.mark.parametrize("odd", ["=1+1.png", "a, b;c.png", "-x.png", "caf\udce9.png", " two  spaces.png"])
def test_a_name_that_a_spreadsheet_would_change_comes_back(project: Path, odd: str) -> None:
    files.write_text(project / "data/prepared/train_files.txt", one_per_line([odd, *NAMES[1:]]))
    files.seal(project / "data/prepared")
    pool = few_labels.pool(project)
    (project / "mine.csv").write_text(label.to_csv(range(40), pool, {row: str(row % 2) for row in range(40)}))
    found = few_labels.read(project / "mine.csv", pool)
    assert found is not None and found.rows == tuple(range(40)) and not pool.names[0].startswith(("=", "-", " "))


def test_names_that_differ_in_blanks_alone_are_told_apart(project: Path) -> None:
    files.write_text(project / "data/prepared/train_files.txt", one_per_line(["s  1.png", "s 1.png", *NAMES[2:]]))
    files.seal(project / "data/prepared")
    pool = few_labels.pool(project)
    (project / "mine.csv").write_text(label.to_csv(range(40), pool, {row: str(row % 2) for row in range(40)}))
    found = few_labels.read(project / "mine.csv", pool)
    assert found is not None and found.rows == tuple(range(40)) and len(set(pool.names)) == len(pool.names)


def test_labels_are_refused_where_their_names_are_other_pictures_now_and_kept_where_these_are_prepared_otherwise(
    project: Path,
) -> None:
    label.pick(project, 40)
    fill(project / FILE)
    pool = few_labels.pool(project)
    found = few_labels.read(project / FILE, pool)
    smaller = np.stack([np.asarray(Image.fromarray(image[0]).resize((20, 20))) for image in pool.images])[:, None]
    darker = pool.images.astype(np.uint16) * 30
    for images in (smaller, darker):
        assert few_labels.read(project / FILE, replace(pool, images=images)) == found
    moved = replace(pool, images=np.roll(pool.images, 1, axis=0))
    with pytest.raises(DataError, match=r"another picture now .* move the file away"):
        few_labels.read(project / FILE, moved)
    lines = list(csv.DictReader(io.StringIO((project / FILE).read_text())))
    (project / "older.csv").write_text("file,label\n" + "".join(f"{line['file']},{line['label']}\n" for line in lines))
    assert few_labels.read(project / "older.csv", moved) == found


def test_dark_images_are_shown_bright_on_the_sheet(project: Path) -> None:
    images = few_labels.pool(project).images
    dark = images.astype(np.uint16) * 8  # 12 bits of 16, and less
    assert label.sheet(range(20), dark) == label.sheet(range(20), dark * 4)
    assert np.asarray(Image.open(io.BytesIO(label.sheet(range(20), dark)))).std() > 50


@pytest.mark.parametrize(("count", "message"), [(5, "10 or more"), (401, "more than the 400 training images that are")])
def test_an_impossible_number_of_images_is_refused(project: Path, count: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        label.pick(project, count)


def test_images_with_labels_need_no_others(tmp_path: Path) -> None:
    root = write_project(tmp_path / "labelled", METHODS)
    (root / FILE).parent.mkdir()
    (root / FILE).write_text("nonsense")
    with pytest.raises(DataError, match="the held-out ones choose"):
        label.pick(root, 20)
    best = champion(load_results(root)[0])
    assert best is not None and best.few is None


def test_of_fewer_images_than_are_usually_asked_for_all_are_picked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label, "POOL", 60)
    label.pick(project, label.ENOUGH)
    assert len((project / label.FILE).read_text().splitlines()) == 61
    fill(project / FILE)
    with pytest.raises(UsageError, match="has every image already"):
        label.pick(project, label.ENOUGH)
