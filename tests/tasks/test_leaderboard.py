"""The table of results: what it holds, how it is sorted, what spreadsheets and Markdown make of it."""

import csv
import dataclasses
import io
import json

import pytest

from tasks import leaderboard
from tasks.cautions import seed_note
from tasks.choice import champion
from tasks.columns import BESIDE_ITS_START, COLUMNS, HEALTH, VERDICT
from tasks.leaderboard import percent, safe_cell
from tasks.results import Result, Row, load_results, ranked, up_to_date
from tasks.runtime.errors import IntegrityError
from tasks.runtime.words import duration
from tasks.trainings import read_cost
from tasks.verdict import Standing, judge
from tests.support.example_results import metrics_of, write_project


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    methods = ("simclr", "rotation", "jigsaw", "raw_pixels", "random_init", "supervised")
    return write_project(tmp_path_factory.mktemp("board") / "project", methods=methods, seeds=(0, 1), num_test=60)


@pytest.fixture(scope="module")
def results(project):
    return load_results(project)[0]


def result(method, seed=0, **metrics):
    return Result(metrics_of(method, seed, **metrics))


def test_csv_has_one_line_per_method_and_seed_with_the_promised_columns(results):
    lines = list(csv.DictReader(io.StringIO(leaderboard.to_csv(judge(results)))))
    wanted = {"method", "seed", "encoder", "epochs", "knn_top1", "linear_top1", "seconds", "images_per_second"}
    own = [HEALTH if column == VERDICT else column for column in COLUMNS]
    assert wanted <= set(own) and list(lines[0]) == [*own, *leaderboard.BESIDE_THE_BEST, *BESIDE_ITS_START, VERDICT]
    assert {(line["method"], line["seed"]) for line in lines} == {(r.method, str(r.seed)) for r in results}
    assert len(lines) == 12 + 2  # and two further seeds of the untrained encoder
    line = next(line for line in lines if line["method"] == "simclr" and line["seed"] == "1")
    metrics = next(r.metrics for r in results if r.name == "simclr-1")
    assert float(line["linear_top1"]) == metrics.score("linear_top1")
    assert (float(line["knn_low"]), float(line["knn_high"])) == metrics.interval("knn")
    assert (line["encoder"], line["epochs"], line["dim"]) == ("small", "8", "128")
    assert (line["layer"], line["knn_layer"], line["lambda"]) == ("block4", "block3", "0.02")


def test_baselines_are_rows_of_the_same_table(results):
    assert {"raw_pixels", "random_init", "supervised"} <= {row.method for row in ranked(results)}


def test_an_alarm_a_method_raised_stands_below_the_table(results):
    for text in (leaderboard.to_text(judge(results)), leaderboard.to_markdown(judge(results))):
        last = [line.removeprefix("- ") for line in text.splitlines()[-2:]]
        assert last == ["jigsaw-0: an alarm of its own.", "jigsaw-1: an alarm of its own."]


def test_cost_is_the_last_end_of_the_journal(project, results):
    assert all(r.get("seconds") == 41.5 + r.seed for r in results if r.kept)
    simclr = next(r for r in results if r.name == "simclr-0")
    assert simclr.get("full_schedule_seconds") == 41.5 / 8 * 200
    assert next(r for r in results if r.method == "random_init").get("full_schedule_seconds") is None
    assert read_cost(project, "not-there-0") == {}


def test_the_held_out_score_sorts_and_chooses_not_the_test_score():
    honest = result("simclr", holdout_linear_top1=0.8, linear_top1=0.5)
    lucky = result("byol", holdout_linear_top1=0.7, linear_top1=0.9)
    assert champion([lucky, honest]) is honest
    assert [row.method for row in ranked([lucky, honest])] == ["simclr", "byol"]


def test_a_baseline_is_never_the_champion():
    method, baseline = result("rotation", holdout_linear_top1=0.3), result("supervised", holdout_linear_top1=0.9)
    assert champion([method, baseline]) is method
    assert champion([baseline]) is None


def test_a_collapsed_encoder_comes_after_every_other():
    collapsed = result("byol", holdout_linear_top1=0.6, verdict="collapsed")
    poor = result("jigsaw", holdout_linear_top1=0.2)
    assert champion([collapsed, poor]) is poor
    assert [row.method for row in ranked([collapsed, poor])] == ["jigsaw", "byol"]
    assert champion([collapsed]) is None


def test_the_champion_does_not_depend_on_the_order_of_the_results(results):
    assert champion(results) is champion(results[::-1])
    tied = [result("byol", holdout_linear_top1=0.5), result("moco", holdout_linear_top1=0.5)]
    assert champion(tied) is champion(tied[::-1])


def test_of_seeds_with_the_same_score_the_first_is_the_best():
    seeds = tuple(result("simclr", seed, holdout_linear_top1=0.5) for seed in (0, 1))
    assert Row("simclr", seeds).best is Row("simclr", seeds[::-1]).best is seeds[0]


def test_that_one_seed_tells_little_is_said_only_where_no_method_has_more():
    one, two = (
        Row(name, tuple(result(name, s, linear_top1=0.5) for s in range(n))) for name, n in (("byol", 1), ("simclr", 2))
    )
    assert seed_note([one]).startswith("One seed: ") and seed_note([two, one]) == ""


def test_without_labels_nothing_is_chosen_and_nothing_sorts(tmp_path):
    methods = ("rotation", "simclr", "random_init")
    write_project(tmp_path, methods=methods, labelled=False, num_test=0)
    results, _ = load_results(tmp_path)
    ranks = [r.metrics.health.effective_rank for r in results]
    assert champion(results) is None and ranks != sorted(ranks, reverse=True)
    assert tuple(row.method for row in ranked(results)) == methods
    shown = leaderboard.to_text(judge(results))
    assert "linear" not in shown.split("\n")[0] and "rank" in shown.split("\n")[0]
    assert "not sorted" in shown and "held-out" not in shown


def test_without_test_labels_the_held_out_score_is_shown_and_sorts():
    results = [result("simclr", holdout_linear_top1=0.5), result("byol", holdout_linear_top1=0.6)]
    header, first, *_ = leaderboard.to_text(judge(results)).splitlines()
    assert "held-out %" in header and "kNN" not in header
    assert first.startswith("byol") and "60.0" in first
    assert "Sorted by the held-out linear score" in leaderboard.footnote(judge(results))


def test_of_very_many_classes_the_table_says_which_are_judged():
    few = result("simclr", holdout_linear_top1=0.5)
    assert "judged" not in leaderboard.footnote(judge([few]))
    judged = {"judged": "images of 500 of 10000 classes, told from all"}
    many = [Result(dataclasses.replace(few.metrics, protocol=judged))]
    assert "scores are of images of 500 of 10000 classes, told from all" in leaderboard.footnote(judge(many))


def test_the_accuracy_of_the_pretext_task_is_that_of_the_last_epoch_and_of_methods_only(project):
    results, _ = load_results(project)
    lines = {line["method"]: line for line in csv.DictReader(io.StringIO(leaderboard.to_csv(judge(results))))}
    assert {m for m, line in lines.items() if line["pretext_accuracy"]} == {"rotation", "jigsaw"}
    last = list(csv.DictReader((project / "out/history/rotation-1.csv").open()))[-1]
    assert lines["rotation"]["pretext_accuracy"] == last["accuracy"]
    header = next(line for line in leaderboard.to_markdown(judge(results)).splitlines() if line.startswith("| method"))
    assert "pretext %" in header
    assert "pretext" not in leaderboard.to_markdown(judge([r for r in results if r.method == "simclr"]))


def test_the_supervised_row_is_explained_where_it_stands(results, tmp_path):
    assert "trained with all the labels, the held-out ones too" in leaderboard.to_markdown(judge(results))
    assert "supervised" not in leaderboard.to_text(judge([r for r in results if r.method != "supervised"]))
    write_project(tmp_path, methods=("simclr", "supervised"), labelled=False, num_test=0)
    unlabelled = leaderboard.footnote(judge(load_results(tmp_path)[0]))
    assert "untrained one" in unlabelled and "held-out" not in unlabelled


def test_several_seeds_give_mean_and_spread_and_the_worst_verdict():
    rows = ranked([result("simclr", s, holdout_linear_top1=v, linear_top1=v) for s, v in enumerate((0.5, 0.6, 0.7))])
    assert rows[0].mean("linear_top1") == pytest.approx(0.6)
    assert rows[0].std("linear_top1") == pytest.approx(0.1)
    assert rows[0].best.seed == 2
    assert leaderboard.cells(rows[0], Standing())["linear %"] == "60.0 ± 10.0"
    mixed = ranked([result("byol", 0), result("byol", 1, verdict="dimensional collapse")])
    assert mixed[0].verdict == "dimensional collapse"


def test_only_what_params_list_is_shown_and_what_is_missing_is_named(project, tmp_path):
    write_project(tmp_path, methods=("simclr", "moco"), num_test=20)
    (tmp_path / "out/metrics/moco-0.json").unlink()
    (tmp_path / "out/metrics/byol-0.json").write_text((tmp_path / "out/metrics/simclr-0.json").read_text())
    results, missing = load_results(tmp_path)
    assert [r.name for r in results] == ["simclr-0"]
    assert missing == ["moco-0"]


def test_no_results_at_all_is_one_clear_error(tmp_path):
    write_project(tmp_path, methods=("simclr",), num_test=20)
    (tmp_path / "out/metrics/simclr-0.json").unlink()
    with pytest.raises(IntegrityError, match="dvc repro"):
        load_results(tmp_path)


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-1", "@sum", "\t=x", "\r\n=x"])
@pytest.mark.fault("F80")
def test_a_text_cell_never_starts_a_formula(text):
    assert safe_cell(text) == f"'{text.strip()}"
    shown = leaderboard.to_csv(judge([Result(dataclasses.replace(metrics_of("simclr"), encoder=text))]))
    assert next(iter(csv.DictReader(io.StringIO(shown, newline=""))))["encoder"] == f"'{text.strip()}"


def test_a_negative_number_stays_a_number():
    assert safe_cell(-2.1) == -2.1
    assert safe_cell("simclr") == "simclr"


@pytest.mark.fault("F80")
def test_markdown_cells_cannot_break_the_table():
    odd = result("<b>a|b`c*", holdout_linear_top1=0.5, verdict="healthy")
    line = next(line for line in leaderboard.to_markdown(judge([odd])).splitlines() if "&lt;b&gt;" in line)
    assert "&lt;b&gt;a\\|b\\`c\\*" in line


def test_the_terminal_shows_table_report_and_how_to_load(project, capsys):
    best = champion(load_results(project)[0]).name
    leaderboard.show(project)
    shown = capsys.readouterr().out
    assert f"{best}; not registered yet" in shown.replace(f", in out/encoders/{best}", "")
    assert shown.index("supervised") < shown.index("simclr") < shown.index("random_init")
    assert max(len(line) for line in shown.splitlines()[:8]) <= 120


def test_what_is_out_of_date_is_in_no_table_and_what_is_registered_of_it_is_not_loaded(project, capsys):
    results = load_results(project)[0]
    best = champion(results).name
    others = {f"evaluate@{r.name}" for r in results if r.kept and r.name != best and not r.is_baseline}
    leaderboard.show(project, {*others, "report", "register"})
    first, *shown = capsys.readouterr().out.splitlines()
    assert first.startswith("Not in this table, for they are out of date: ") and best not in first
    assert [
        method for line in shown for method in ("simclr", "byol", "rotation", "jigsaw") if line.startswith(f"{method}   ")
    ] == [best.partition("-")[0]]
    older = "what is registered may be older, make run brings it up to date"
    assert f"{best}, in out/encoders/{best}; {older}" in "\n".join(shown)
    leaderboard.show(project, {f"evaluate@{r.name}" for r in results})
    assert capsys.readouterr().out.count("\n") == 1


def test_where_every_row_is_of_earlier_images_the_command_shows_them_and_says_so(project, capsys):
    every = {f"evaluate@{r.name}" for r in load_results(project)[0]} | {"register"}
    leaderboard.show(project, every, anyway=True)
    first, *shown = capsys.readouterr().out.splitlines()
    assert first.startswith("No row below is up to date: images, parameters or code are others now, or files are missing")
    assert any(line.startswith("simclr ") for line in shown) and "what is registered may be older" in "\n".join(shown)
    some = every - {"evaluate@simclr-0"}
    leaderboard.show(project, some)
    as_ever = capsys.readouterr().out
    leaderboard.show(project, some, anyway=True)
    assert capsys.readouterr().out == as_ever and "No row below" not in as_ever


def test_a_row_of_a_task_is_as_old_as_the_stage_of_that_task(project):
    here = load_results(project)[0]
    there = [dataclasses.replace(r, task="tiles") for r in here]
    stale = {f"evaluate_task@tiles-{r.name}" for r in here if r.method == "simclr"}
    assert stale and up_to_date(here, stale) == here
    assert {r.method for r in there} - {r.method for r in up_to_date(there, stale)} == {"simclr"}


def test_further_untrained_encoders_go_with_the_row_that_they_stand_behind():
    first, further = result("random_init"), dataclasses.replace(result("random_init", 1), kept=False)
    assert up_to_date([first, further], {first.stage}) == []


def test_a_damaged_metrics_file_is_an_integrity_error(tmp_path):
    write_project(tmp_path, methods=("simclr",), num_test=20)
    (tmp_path / "out/metrics/simclr-0.json").write_text(json.dumps({"a": 1})[:-1])
    with pytest.raises(IntegrityError, match=r"simclr-0\.json"):
        load_results(tmp_path)


def test_numbers_read_well():
    assert (percent(0.7213), percent(0.7213, 0.0042), percent(None)) == ("72.1", "72.1 ± 0.4", "–")
    assert percent(0.4375, 0.0) == "43.8"  # raw pixels, which no seed changes
    assert [duration(s) for s in (None, 4.21, 42, 600, 9000, 400000)] == ["–", "4.2 s", "42 s", "10 min", "2.5 h", "4.6 d"]
