"""The report: complete, self-contained, honest, readable in a browser, and safe whatever files and classes are called."""

import csv
import dataclasses
import html
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from ssl_core import catalogue
from tasks.cautions import verdict_text
from tasks.choice import champion
from tasks.report import curves, figures, findings, illustrations, pictures
from tasks.report.page import build, mistakes, publish
from tasks.results import Result, load_results
from tasks.runtime import dataset, files
from tasks.runtime.audit import Leaks
from tasks.runtime.errors import IntegrityError
from tasks.verdict import judge
from tests.conftest import ROOT
from tests.support import audits, browser
from tests.support.example_results import CLASSES, metrics_of, write_project


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = write_project(tmp_path_factory.mktemp("report") / "project")
    build(root, root / "reports")
    return root


@pytest.fixture(scope="module")
def page(project):
    return (project / "reports/report.html").read_text()


@pytest.fixture(scope="module")
def seen(project):
    return browser.inspect(project / "reports/report.html")


def text_of(page):
    """What a reader reads, on one line."""
    body = re.sub(r"<(style|script).*?</\1>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_the_browser_draws_every_image_without_complaint_or_network(seen):
    assert seen["console"] == []
    assert seen["broken"] == []
    assert seen["without_alt"] == 0
    assert seen["requests"] == []
    assert seen["scripts"] == 0
    # 7 charts, 5 sheets of views, 8 maps, 8 sheets of neighbors, 1 sheet of near duplicates
    assert seen["images"] == 7 + 5 + 8 + 8 + 1
    assert "simclr gives the best encoder" in " ".join(seen["text"].split())


def test_the_page_fits_a_narrow_window(project):
    """No table is cut: one that is wider than its place would have a scroll bar."""
    for width in (500, 800, 1000, 1150, 1300):
        seen = browser.inspect(project / "reports/report.html", width=width)
        assert seen["width"] <= width and seen["cut"] == []


def test_the_page_refers_to_nothing_outside(page):
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", page)
    assert "url(" not in page and "@import" not in page


@pytest.mark.fault("F80")
def test_names_of_classes_and_files_are_escaped(page, project):
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "<b>file" not in page and "&lt;b&gt;file &amp; name.png&lt;/b&gt;" in page
    assert "<i>bad.png" not in page and "&lt;i&gt;bad.png&lt;/i&gt;" in page
    cells = [c for line in csv.reader((project / "reports/leaderboard.csv").open()) for c in line]
    assert not [c for c in cells if c.startswith(("=", "+", "@"))]


def test_the_summary_compares_the_best_method_with_every_baseline(page):
    text = text_of(page)
    assert "simclr gives the best encoder of 5 methods" in text
    for words in ("raw pixels give", "network untrained gives", "with all the labels gives"):
        assert words in text
    assert "(clearly less)" in text and "(clearly more)" in text
    assert re.search(
        r"The raw pixels give [\d.]+ % by linear probe \(clearly less\) and [\d.]+ % by kNN \(clearly less\)\.", text
    )
    assert "Not healthy: jigsaw (dimensional collapse)" in text
    assert "jigsaw-0: an alarm of its own." in text


def test_one_number_has_one_interval_wherever_it_stands(project, page):
    results, _ = load_results(project)
    verdict, best = judge(results), champion(results)
    low, high = (f"{100 * edge:.1f}" for edge in verdict.standings[best.method].intervals["linear"])
    share = f"{100 * best.get('linear_top1'):.1f}"
    text = text_of(page)
    assert f"{share} % (95 % interval {low} % to {high} %)" in text and f"linear probe, test {share} % {low} to {high}" in text
    assert f"{share} {low} to {high}" in text.replace(" =", "")
    line = next(line for line in csv.DictReader((project / "reports/leaderboard.csv").open()) if line["method"] == best.method)
    assert [f"{100 * float(line[f'linear_{edge}']):.1f}" for edge in ("low", "high")] == [low, high]


def test_the_page_begins_with_whether_training_was_worth_it_and_every_row_says_it(project, page):
    text = text_of(page)
    assert text.index("Training on your images is worth it") < text.index("simclr gives the best encoder")
    assert text.index("Decided on held-out training labels") < text.index("simclr gives the best encoder")
    assert text.index("Features off the shelf were not compared") < text.index("simclr gives the best encoder")
    rows = dict(re.findall(r'<tr class="(?:base)?(?:best)?">\s*<th scope="row">(\w+)(.*?)</tr>', page, re.S)[:8])
    verdict = judge(load_results(project)[0])
    said = {row.method: verdict_text(row, verdict.standings[row.method]) for row in verdict.rows}
    assert {said["simclr"], said["jigsaw"], said["raw_pixels"]} == {"worth it", "dimensional collapse", "–"}
    for method, words in said.items():
        assert f" {words}</span>" in rows[method] if words != "–" else "pill" not in rows[method]


def test_what_was_done_and_seen_is_said_for_each_method(page):
    text = text_of(page)
    assert "8 epochs, 624 steps, 2,000 images/s" in text and "The supervised encoder has seen all the labels" in text
    assert "71.0 guessing 25.0" in text and "44.0 guessing 4.2" in text  # pretext
    assert "rotation the image turned by 0, 90, 180 and 270 degrees" in text  # rows of the sheet
    assert re.search(r"simclr 8 624 42 s 128 adamw 0.15 0.0001 blur 0.5", text)  # recipe
    assert re.search(r"moco 8 624 42 s 128 adamw 0.004 0.0001 –", text)
    assert re.search(r"simclr : [\d.]+ % \([\d.]+ to [\d.]+\), 300 queries", text)
    assert "the five test images whose features" in text and "one query of every class" in text


def test_the_page_holds_every_section(page):
    sections = re.findall(r'<h2 id="(\w+)"', page)
    assert sections == [
        "leaderboard",
        "labels",
        "health",
        "learning",
        "views",
        "maps",
        "neighbors",
        "mistakes",
        "data",
        "how",
        "use",
    ]
    assert re.findall(r'<a href="#(\w+)"', re.search("<nav.*?</nav>", page, re.S)[0]) == sections


def test_the_report_loads_its_champion_by_the_registry_name(page):
    assert "models:/ssl-example@champion" in html.unescape(page)


def test_the_table_is_published_with_the_page(project):
    assert {p.name for p in (project / "reports").iterdir()} == {
        "report.html",
        "leaderboard.csv",
        "leaderboard.md",
        files.MANIFEST,
    }
    files.verify(project / "reports")
    assert "simclr" in (project / "reports/leaderboard.md").read_text()


@pytest.mark.fault("F15")
def test_a_report_killed_while_it_is_written_leaves_the_old_one(project, monkeypatch):
    before = (project / "reports/report.html").read_bytes()
    real = files.seal

    def killed(directory, **facts):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "seal", killed)
    with pytest.raises(KeyboardInterrupt):
        publish({"report.html": "new"}, project / "reports")
    monkeypatch.setattr(files, "seal", real)
    assert (project / "reports/report.html").read_bytes() == before
    assert not list(project.glob(".reports*"))


def test_a_data_set_without_labels_and_without_test_images_is_reported(tmp_path):
    write_project(tmp_path, methods=("rotation", "simclr", "jigsaw", "random_init"), labelled=False, num_test=0)
    build(tmp_path, tmp_path / "reports")
    page = (tmp_path / "reports/report.html").read_text()
    text = text_of(page)
    assert "There are no labels to score with" in text
    assert "linear probe, test" not in text and "kNN" not in re.sub("neighbors.*", "", text)
    assert "cluster 1" in text and "clusters of the features of rotation" in text
    assert 'id="mistakes"' not in page and 'id="labels"' not in page
    seen = browser.inspect(tmp_path / "reports/report.html")
    assert (seen["broken"], seen["console"]) == ([], [])


def test_missing_pictures_and_histories_leave_their_section_out(tmp_path):
    write_project(tmp_path, methods=("simclr", "moco", "random_init"), num_test=40)
    for gone in ("features", "history", "predictions", "journal", "encoders"):
        shutil.rmtree(tmp_path / "out" / gone)
    (tmp_path / "out/metrics/moco-0.json").unlink()
    build(tmp_path, tmp_path / "reports")
    page = (tmp_path / "reports/report.html").read_text()
    assert re.findall(r'<h2 id="(\w+)"', page) == ["leaderboard", "labels", "health", "data", "how", "use"]
    assert "not evaluated yet: moco-0" in text_of(page) and "has seen all the labels" not in page


def test_only_baselines_still_make_a_report(tmp_path):
    write_project(tmp_path, methods=("raw_pixels", "random_init"), num_test=40)
    build(tmp_path, tmp_path / "reports")
    assert 'id="use"' not in (tmp_path / "reports/report.html").read_text()


def test_when_every_method_has_collapsed_none_is_recommended(tmp_path):
    write_project(tmp_path, methods=("simclr", "random_init"), num_test=40)
    path = tmp_path / "out/metrics/simclr-0.json"
    files.write_json(path, json.loads(path.read_text()) | {"verdict": "collapsed"})
    build(tmp_path, tmp_path / "reports")
    text = text_of((tmp_path / "reports/report.html").read_text())
    assert "Every method has collapsed" in text and "gives the best encoder" not in text


def test_twenty_methods_of_several_seeds_in_color_with_many_classes_stay_readable(tmp_path):
    from ssl_core.catalogue import METHODS

    names = [f"class {i}" for i in range(30)]
    write_project(tmp_path, methods=(*METHODS, "random_init"), seeds=(0, 1), num_test=60, channels=3, classes=names)
    build(tmp_path, tmp_path / "reports")
    page = (tmp_path / "reports/report.html").read_text()
    assert len(page) < 6_000_000
    assert "Mean ± standard deviation of 2 seeds" in text_of(page)
    seen = browser.inspect(tmp_path / "reports/report.html")
    assert (seen["broken"], seen["console"]) == ([], [])
    assert seen["width"] <= 1280


def test_the_stage_publishes_the_report_and_the_journal_of_what_it_compared(tmp_path):
    root = write_project(tmp_path / "project", methods=("simclr", "random_init"), num_test=40)
    source = ROOT
    (root / "dvc.yaml").write_text(
        "stages:\n  report:\n    cmd: x\n    deps: [data/prepared, out/metrics]\n    params: [run]\n"
        "    outs: [reports, out/scores, out/plots]\n"
    )
    command = [sys.executable, "-m", "tasks.report"]
    done = subprocess.run(
        command, cwd=root, env={"PYTHONPATH": str(source), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (root / "reports/journal.jsonl").read_text().splitlines()]
    assert events[0]["run"]["children"] == ["simclr-0", "random_init-0"]
    best = json.loads((root / "out/metrics/simclr-0.json").read_text())
    scores = next(e["metrics"] for e in events if e["event"] == "metrics")
    assert scores["eval/holdout_linear_top1"] == best["holdout_linear_top1"]
    assert events[-1]["status"] == "FINISHED"
    assert {e["path"] for e in events if e["event"] == "artifact"} == {
        *(f"reports/{n}" for n in ("report.html", "leaderboard.csv", "leaderboard.md")),
        *(f"out/plots/{n}" for n in ("loss.csv", "knn.csv", "scores.csv", "confusion.csv")),
    }
    assert not (root / "reports/params.yaml").exists()  # of which the stage depends on two keys only
    assert all((root / e["path"]).exists() for e in events if e["event"] == "artifact")
    assert events[0]["run"]["tags"]["description"].startswith("Training on your images is worth it")
    small = json.loads((root / "out/scores/simclr-0.json").read_text())
    assert small["linear"] == pytest.approx(best["linear_top1"], abs=1e-4) and set(small) == {
        "held_out", "linear", "knn", "seconds", "verdict"
    }  # fmt: skip
    assert {path.stem for path in (root / "out/scores").iterdir()} == {"simclr-0", *(f"random_init-{s}" for s in range(3))}
    (root / "data/prepared/audit.json").write_text("{}")
    broken = subprocess.run(
        command, cwd=root, env={"PYTHONPATH": str(source), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert broken.returncode == IntegrityError.code
    assert len(broken.stderr.splitlines()) == 1


# ---------------------------------------------------------------------- parts


def test_pictures_of_sixteen_bits_that_use_those_of_eight_are_shown_in_eight():
    image = np.array([[[0, 60], [128, 255]]], np.uint16)
    assert pictures.shades(image, (0.0, 255.0)).dtype == np.uint8 and pictures.thumbnail(image, (0.0, 255.0)).dtype == np.uint8


def test_every_color_of_the_maps_is_in_their_legend():
    names = [f"class {i}" for i in range(24)]
    signs = [(color, sign) for color, sign, _ in pictures.legend(names, others=True)]
    assert len({*signs}) == 25 and pictures.legend(names, others=True)[-1] == (figures.GREY, "●", "others")
    assert len(pictures.legend(names)) == 24 and figures.GREY not in figures.CLASS_COLORS


def test_a_class_with_a_control_character_is_drawn():
    ElementTree.fromstring(figures.confusion(np.eye(2), ["ca\x07t", "dog"]))


def test_of_few_images_none_is_its_own_neighbor():
    features = np.eye(4, dtype=np.float32)
    assert all(row not in near for row, near in enumerate(pictures.most_similar(features, range(4)).tolist()))


def test_neighbors_are_the_most_similar_images_without_the_query():
    features = np.eye(8, dtype=np.float32)
    features[3] = features[0] * 0.9 + features[1] * 0.1
    features[5] = features[0] * 0.8 + features[1] * 0.2
    found = pictures.most_similar(features / np.linalg.norm(features, axis=1, keepdims=True), [0])
    assert found.shape == (1, pictures.NEIGHBORS)
    assert found[0, :2].tolist() == [3, 5]
    assert 0 not in found


@pytest.mark.parametrize(("classes", "shown"), [(10, 10), (50, pictures.QUERIES)])
def test_queries_are_one_of_every_class_as_far_as_there_is_room(classes, shown):
    view = pictures.Gallery(np.zeros((100, 1, 4, 4), np.uint8), np.arange(100) % classes, "test", np.arange(100))
    chosen = view.queries()
    assert len(set(view.labels[chosen])) == len(chosen) == shown


def test_precision_counts_neighbors_of_the_same_class_over_all_queries():
    rng = np.random.default_rng(0)
    labels = np.arange(1500) % 3
    x = rng.normal(size=(3, 8))[labels] + 0.7 * rng.normal(size=(1500, 8))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = pictures.precision(x, labels)
    asked = np.arange(pictures.ASKED) * 1500 // pictures.ASKED
    order = np.argsort(-(x @ x.T - 2 * np.eye(1500)), axis=1)[:, : pictures.NEIGHBORS]
    assert found.share == pytest.approx((labels[order] == labels[:, None])[asked].mean())
    assert found.queries == pictures.ASKED and found.low < found.share < found.high < found.low + 0.06
    assert pictures.precision(x, np.where(labels == 0, 0, -1)) is None
    drawn = rng.integers(0, 3, 1500)  # labels that the pictures do not show
    copies = np.repeat(x, 2, 0), np.repeat(drawn, 2)
    assert pictures.precision(*copies).share > 0.43, "of five neighbors one is the same picture again"
    assert pictures.precision(*copies, np.repeat(np.arange(1500), 2)).share == pytest.approx(1 / 3, abs=0.03)
    few = pictures.precision(x, labels, np.arange(1500) % 10)
    assert few.high - few.low > 1.1 * (found.high - found.low)
    halved = pictures.precision(np.concatenate([x, x]), np.concatenate([labels, np.full(1500, -1)]))
    assert halved == found  # images without a label are neither asked nor found


def test_mistakes_count_what_the_predictions_say(project):
    path = project / "out/predictions/simclr-0.csv"
    pairs = [(line["actual"], line["predicted"]) for line in csv.DictReader(path.open(newline=""))]
    results, _ = load_results(project)
    found = mistakes(project, champion(results), CLASSES)
    for share, name, count in found["classes"]:
        own = [p for a, p in pairs if a == name]
        assert (len(own), share) == (count, pytest.approx(own.count(name) / len(own)))
    share, actual, predicted, count = found["pairs"][0]
    assert count == pairs.count((actual, predicted))
    assert share == pytest.approx(count / sum(a == actual for a, _ in pairs))


def test_the_effect_of_near_duplicates_is_the_score_without_them(page):
    pairs = [("a", "a"), ("a", "b"), ("b", "b"), ("b", "b")]
    labels, classes = np.array([2, 0, -1, 0, 1, 1]), ["a", "b", "of too many"]
    data = SimpleNamespace(test_labels=labels, meta={"classes": classes})  # the first and the third were not judged
    assert findings.effect("x", pairs, np.array([1]), data) == findings.Effect("x", 1, 0.75, pytest.approx(2 / 3))
    assert findings.effect("x", pairs, np.array([0, 2, 3]), data) == findings.Effect("x", 1, 0.75, 1.0)
    assert findings.effect("x", pairs, np.arange(6), data) is None is findings.effect("x", pairs, np.array([0, 2]), data)
    said = re.search(r"Without the 2 test images that have .*?\)\.", text_of(page))
    assert said and re.findall(r"(\w+) gets [\d.]+ %", said[0]) == [
        "simclr",
        "raw_pixels",
        "random_init",
    ]  # all that the verdict weighs


def test_leaks_left_in_training_count_as_suspicious(project):
    data = dataset.load(project / dataset.PREPARED)
    images = np.concatenate([data.train_images[:3], data.test_images[3:]])
    leaky = dataclasses.replace(data, test_images=images)
    assert findings.suspicious_rows(audits.audit(leaks=Leaks(3, 0, 0, ())), leaky).tolist() == [0, 1, 2]
    assert findings.suspicious_rows(audits.audit(leaks=Leaks(3, 0, 3, ())), leaky).tolist() == []


def test_tsne_keeps_groups_apart_and_repeats_exactly():
    rng = np.random.default_rng(0)
    groups = np.arange(150) % 3
    x = rng.normal(size=(3, 20))[groups] * 4 + rng.normal(size=(150, 20))
    y = pictures.plane(x)
    assert y.shape == (150, 2) and np.array_equal(y, pictures.plane(x))
    distance = np.linalg.norm(y[:, None] - y, axis=2) + 1e9 * np.eye(150)
    assert (groups[distance.argmin(1)] == groups).mean() > 0.98


@pytest.mark.parametrize("x", [np.ones((10, 4)), np.zeros((3, 1)), np.random.default_rng(0).normal(size=(30, 1))])
def test_tsne_of_collapsed_or_few_features_is_finite(x):
    y = pictures.plane(x)
    assert y.shape == (len(x), 2) and np.isfinite(y).all()


def test_the_report_is_the_same_where_the_locale_has_other_letters(project, tmp_path):
    """Files are UTF-8, whatever the terminal's encoding is."""
    program = f"from pathlib import Path; from tasks.report.page import build; build(Path({str(project)!r}), Path('here'))"
    env = os.environ | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    build(project, tmp_path / "again")
    assert (tmp_path / "here/report.html").read_bytes() == (tmp_path / "again/report.html").read_bytes()


def test_few_labels_are_drawn_at_the_share_that_was_seen():
    few = {"0.01": {"mean": 0.3, "std": 0.1, "labels": 20}, "0.1": {"mean": 0.5, "std": 0.1, "labels": 100}}
    own = dataclasses.replace(metrics_of("simclr", 0, few_label=few, linear_top1=0.7), protocol={"train_labels": 1000})
    curve = figures.label_curve(Result(own))
    assert [share for share, *_ in curve] == pytest.approx([2, 10, 100])  # ten classes need twenty images


def test_charts_follow_the_theme_and_keep_dollar_signs():
    svg = figures.confusion(np.eye(2) * 5, ["a$b$", "<&>"]).decode()
    assert "prefers-color-scheme" in svg and "var(--text)" in svg and figures.TEXT not in svg
    assert "a$b$" in svg and "&lt;&amp;&gt;" in svg


def test_history_columns_without_numbers_are_left_out(tmp_path):
    (tmp_path / "out/history").mkdir(parents=True)
    (tmp_path / "out/history/x-0.csv").write_text("epoch,loss,empty\n0,,\n1,2.5,\n")
    history = illustrations.read_history(tmp_path, "x-0")
    assert list(history) == ["epoch", "loss"]
    assert np.isnan(history["loss"][0]) and history["loss"][1] == 2.5
    assert illustrations.read_history(tmp_path, "absent-0") is None


def test_where_no_method_is_the_best_each_has_a_line_of_its_own():
    methods = sorted(catalogue.METHODS)
    history = pd.DataFrame({"epoch": [0, 1], "step": [0, 9], "effective_rank": [9.0, 12.0]})
    looks, legend = curves._looks(methods, {methods[3]: "collapsed"}, None)
    assert len({str(look) for look in looks.values()}) == len(methods) == 20 and f"{methods[3]} (collapsed)" in legend
    drawn = curves.health_curves({method: [history] for method in methods}, {}, None).decode()
    with_best = curves.health_curves({method: [history] for method in methods}, {}, "simclr").decode()
    assert all(f">{method}<" in drawn for method in methods) and ">others<" in with_best and ">moco<" not in with_best
