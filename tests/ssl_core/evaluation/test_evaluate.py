"""kNN and probes against scikit-learn, lightly and worked values; the protocol chooses on held-out training labels only."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, balanced_accuracy_score, normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from ssl_core.evaluation import few_labels, protocol, scores
from ssl_core.evaluation.few_labels import Task, class_balanced_halves
from ssl_core.evaluation.intervals import bootstrap_intervals
from ssl_core.evaluation.knn import knn, nearest_neighbors
from ssl_core.evaluation.probe import linear_probe, standardization
from ssl_core.evaluation.protocol import Labels, _choose_knn, _choose_linear, _rising_edge, evaluate
from tasks.runtime import params
from tests.conftest import ROOT
from tests.support.configs import encoder_of

CONFIG = replace(
    params.evaluate_config(params.load(ROOT / params.PARAMS)),
    knn_k=(5, 20),
    knn_temperature=(0.07, 1.0),
    linear_lambdas=8,
    linear_lambda_range=(1e-5, 10.0),
    layers=2,
    label_fractions=(0.05, 0.2),
    label_seeds=3,
    bootstrap=200,
    batch_size=100,
    untrained=1,
)


def blobs(n: int, d: int = 16, classes: int = 4, spread: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian classes around random centers, features of very different scales."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(n) % classes
    x = centers[labels] + spread * torch.randn(n, d, generator=generator)
    return x * torch.logspace(-1, 1, d) + 3, labels


# ------------------------------------------------------------------ kNN

BANK = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1], [-1, 0]])
BANK_LABELS = torch.tensor([0, 1, 1, 0])
QUERY = torch.tensor([[0.96, 0.28]])


def test_knn_has_the_worked_similarities_and_votes():
    similarity, index = nearest_neighbors(BANK, 7 * QUERY, 4)
    assert index.tolist() == [[0, 1, 2, 3]]
    assert similarity[0].tolist() == pytest.approx([0.96, 0.936, 0.28, -0.96], abs=1e-6)
    found = knn(BANK, BANK_LABELS, QUERY, (1, 2, 3), (0.07, 1.0), 2)
    assert {key: int(value) for key, value in found.items() if key[1] == 0.07} == {(1, 0.07): 0, (2, 0.07): 0, (3, 0.07): 0}
    assert int(found[3, 1.0]) == 1


@pytest.mark.parametrize("k", [1, 20, 100])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_knn_equals_lightly(k, temperature):
    from lightly.utils.benchmarking import knn_predict  # here: it imports a second library of trainings, two seconds

    (x, y), (q, _) = blobs(500, spread=3.0), blobs(200, spread=3.0, seed=1)
    bank = torch.nn.functional.normalize(x).T.contiguous()
    theirs = knn_predict(torch.nn.functional.normalize(q), bank, y, 4, k, temperature)[:, 0]
    assert torch.equal(knn(x, y, q, (k,), (temperature,), 4)[k, temperature], theirs)


def test_knn_equals_scikit_learn_with_the_same_weights():
    (x, y), (q, _) = blobs(500, spread=3.0), blobs(200, spread=3.0, seed=1)
    model = KNeighborsClassifier(30, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.1))
    theirs = model.fit(x.double(), y).predict(q.double())
    assert knn(x, y, q, (30,), (0.1,), 4)[30, 0.1].tolist() == theirs.tolist()


def brute_force(train: torch.Tensor, queries: torch.Tensor, k: int) -> list[list[int]]:
    """Indices by exact similarity of fixed-point vectors, then by index: plain Python integers."""
    unit = [torch.round(torch.nn.functional.normalize(x) * 2**24).long().tolist() for x in (train, queries)]
    rows = []
    for q in unit[1]:
        similarity = [sum(a * b for a, b in zip(q, t, strict=True)) for t in unit[0]]
        rows.append(sorted(range(len(train)), key=lambda i: (-similarity[i], i))[:k])
    return rows


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 90), st.integers(1, 6), st.integers(1, 60), st.integers(1, 9), st.integers(0, 1000))
@pytest.mark.fault("F52")
def test_neighbors_are_exact_with_ties_for_any_block_size(n, d, k, block, seed):
    generator = torch.Generator().manual_seed(seed)
    train = torch.randint(-1, 2, (n, d), generator=generator).float()  # few distinct directions: many exact ties
    queries = torch.randint(-1, 2, (7, d), generator=generator).float()
    similarity, index = nearest_neighbors(train, queries, k, block)
    assert index.tolist() == brute_force(train, queries, min(k, n))
    assert torch.equal(similarity, nearest_neighbors(train, queries, k, 7)[0])


def test_nearly_equal_features_are_ranked_exactly_though_float32_cannot_tell_them_apart():
    x = torch.nn.functional.normalize(
        torch.ones(300, 64) + 1e-6 * torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    )
    assert nearest_neighbors(x, x[:3], 5)[1].tolist() == brute_force(x, x[:3], 5)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 400), st.integers(1, 5), st.integers(1, 40), st.integers(1, 60), st.integers(0, 1000))
@pytest.mark.fault("R7")
def test_predictions_are_those_of_exact_similarities_for_any_block_size(n, d, k, block, seed):
    generator = torch.Generator().manual_seed(seed)
    train = torch.randint(-2, 3, (n, d), generator=generator) + 1e-7 * torch.randn(n, d, generator=generator)
    queries, labels = torch.randint(-2, 3, (40, d), generator=generator).float(), torch.randint(3, (n,), generator=generator)
    similarity, index = nearest_neighbors(train, queries, k)
    weight = torch.exp(similarity / 0.07 - similarity[:, :1] / 0.07)
    votes = (weight[..., None] * torch.nn.functional.one_hot(labels[index], 3)).sum(1)
    margin = votes.topk(2).values.diff().abs()[:, 0] > 1e-9 * votes.sum(1)  # a tie may be summed in another order here
    found = knn(train, labels, queries, (k,), (0.07,), 3, block)[k, 0.07]
    assert torch.equal(found[margin], votes.argmax(1)[margin])
    assert torch.equal(found, knn(train, labels, queries, (k,), (0.07,), 3, 40)[k, 0.07])


@pytest.mark.fault("F52")
def test_equal_features_go_to_the_lowest_indices():
    similarity, index = nearest_neighbors(torch.ones(500, 8), torch.ones(3, 8), 4, block=2)
    assert index.tolist() == [[0, 1, 2, 3]] * 3
    assert len(similarity.unique()) == 1


@pytest.mark.fault("F43")
def test_k_above_the_training_set_means_all_of_it():
    x, y = blobs(30)
    found = knn(x, y, x[:5], (30, 1000), (1.0,), 4)
    assert torch.equal(found[1000, 1.0], found[30, 1.0])


def test_all_neighbors_at_an_endless_temperature_vote_for_the_largest_class():
    x, _ = blobs(50)
    y = (torch.arange(50) < 20).long()  # 30 of class 0
    assert knn(x, y, x, (50,), (1e9,), 2)[50, 1e9].tolist() == [0] * 50


def test_a_tiny_temperature_does_not_overflow():
    x, y = blobs(50)
    assert torch.equal(knn(x, y, x, (9,), (1e-5,), 4)[9, 1e-5], y)


def test_impossible_neighbors_are_refused():
    for k, t in ((0, 0.1), (3, 0.0)):
        with pytest.raises(ValueError, match="k >= 1"):
            knn(BANK, BANK_LABELS, QUERY, (k,), (t,), 2)


# ------------------------------------------------------------------ linear probe


def objective_of(coef, intercept, x, y, strength) -> float:
    """The probe's objective for scikit-learn's solution, in float64."""
    logits = torch.from_numpy(x @ coef.T + intercept)
    return float(torch.nn.functional.cross_entropy(logits, y) + strength / 2 * (coef**2).sum())


@pytest.mark.parametrize("n,d", [(400, 12), (60, 100)])
def test_probe_reaches_scikit_learns_objective_for_all_strengths_at_once(n, d):
    x, y = blobs(n, d, spread=4.0)
    mix = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(3)))[0]
    x = ((x - 3) / torch.logspace(-1, 1, d)) @ (mix * torch.logspace(0, -3, d)) @ mix.T  # nearly dependent features
    strengths = torch.logspace(-6, 1, 22, dtype=torch.float64)  # so many that some start from their neighbors
    found = linear_probe(x[None], y[None], strengths[None], 4)
    standard = StandardScaler().fit_transform(x.double().numpy())
    for i, strength in list(enumerate(strengths.tolist()))[::3]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=1 / (n * strength), max_iter=5000, tol=1e-8).fit(standard, y)
        theirs = objective_of(model.coef_, model.intercept_, standard, y, strength)
        assert float(found.objective[0, i]) == pytest.approx(theirs, abs=1e-4)
        same = (found.predict(x)[0, i].numpy() == model.predict(standard)).mean()
        assert same >= 0.99


def test_the_reported_objective_is_that_of_the_weights_returned():
    x, y = blobs(200, 8, spread=3.0)
    found = linear_probe(x[None], y[None], torch.tensor([[0.01]]), 4)
    std = x.double().std(0, correction=0).numpy()
    coef = found.weight[0, 0].double().numpy() * std
    intercept = found.bias[0, 0].double().numpy() + found.weight[0, 0].double().numpy() @ x.double().mean(0).numpy()
    assert float(found.objective) == pytest.approx(
        objective_of(coef, intercept, (x.double() - x.double().mean(0)).numpy() / std, y, 0.01)
    )


def test_problems_side_by_side_do_not_touch_each_other():
    (x1, y1), (x2, y2) = blobs(80, 6, spread=2.0), blobs(80, 6, spread=2.0, seed=5)
    strengths = torch.tensor([[1e-3, 0.1], [0.1, 1.0]])
    both = linear_probe(torch.stack([x1, x2]), torch.stack([y1, y2]), strengths, 4, 1e-10)
    for p, (x, y) in enumerate(((x1, y1), (x2, y2))):
        alone = linear_probe(x[None], y[None], strengths[p : p + 1], 4, 1e-10)
        assert both.objective[p].tolist() == pytest.approx(alone.objective[0].tolist(), abs=1e-6)
        assert torch.equal(both.predict(x)[p], alone.predict(x)[0])


def test_separable_classes_are_fitted_perfectly():
    x, y = blobs(100, spread=0.01)
    assert torch.equal(linear_probe(x[None], y[None], torch.tensor([[1e-4]]), 4).predict(x)[0, 0], y)


def test_random_labels_give_chance():
    x, q = (
        torch.randn(400, 8, generator=torch.Generator().manual_seed(0)),
        torch.randn(2000, 8, generator=torch.Generator().manual_seed(1)),
    )
    y = torch.randint(4, (400,), generator=torch.Generator().manual_seed(2))
    truth = torch.randint(4, (2000,), generator=torch.Generator().manual_seed(3))
    predicted = linear_probe(x[None], y[None], torch.tensor([[0.1]]), 4).predict(q)[0, 0]
    assert float((predicted == truth).float().mean()) == pytest.approx(0.25, abs=0.04)


@pytest.mark.fault("F52", "F53")
def test_constant_features_and_absent_classes_do_no_harm():
    x, y = blobs(100, 5, classes=2, spread=0.5)
    x = torch.cat([x, torch.full((100, 1), 0.1), torch.zeros(100, 1)], 1)
    found = linear_probe(x[None], y[None], torch.tensor([[0.01]]), 5)
    assert torch.equal(found.predict(x)[0, 0], y)
    assert found.weight[0, 0, :, 5:].abs().max() == 0
    one = linear_probe(x[None], torch.full((1, 100), 3), torch.tensor([[0.01]]), 5)
    assert (one.predict(x) == 3).all()
    noise = torch.randn(500, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rounding, small = (standardization(1 + size * noise)[1] for size in (1e-9, 1e-5))
    assert rounding.isinf().all() and small.isfinite().all(), "what only rounding makes differ is constant"


@pytest.mark.fault("F38")
def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        linear_probe(torch.full((1, 3, 2), torch.nan), torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 1), 2)


# ------------------------------------------------------------------ scores


@pytest.mark.parametrize("count", range(1, 41))
def test_clusters_that_are_the_classes_have_a_share_of_one_whatever_rounding_makes_of_it(count: int) -> None:
    same = torch.arange(count)
    assert 1 - 1e-12 < scores.nmi(same, same) <= 1 and scores.ari(same.repeat(3), same.repeat(3)) == pytest.approx(1)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 200), st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_clustering_scores_equal_scikit_learn(n, clusters, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randint(clusters, (n,), generator=generator), torch.randint(classes, (n,), generator=generator)
    nmi, ari = scores.nmi(a, b), scores.ari(a, b)
    assert nmi == pytest.approx(normalized_mutual_info_score(b, a), abs=1e-9)
    assert ari == pytest.approx(adjusted_rand_score(b, a), abs=1e-9)


@pytest.mark.fault("F53")
def test_balanced_accuracy_equals_scikit_learn_under_imbalance():
    labels = torch.cat([torch.zeros(1000, dtype=torch.long), torch.ones(1, dtype=torch.long)])
    predicted = torch.zeros(1001, dtype=torch.long)
    recalls = scores.per_class(predicted, labels, 3)
    assert recalls == [1.0, 0.0, None]
    assert scores.balanced(recalls) == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_bootstrap_interval_is_the_binomial_one_and_repeats():
    correct = torch.arange(400)[None] < torch.tensor([[300], [100]])
    (low, high), other = bootstrap_intervals(correct, 4000, 7, 3)
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert low == pytest.approx(0.75 - half, abs=0.008)
    assert high == pytest.approx(0.75 + half, abs=0.008)
    assert other[1] < low
    assert bootstrap_intervals(correct, 4000, 7, 3)[0] == (low, high)
    assert bootstrap_intervals(correct[:1], 4000, 8, 3)[0] != (low, high)
    right, wrong = bootstrap_intervals(torch.tensor([[1.0], [0.0]]).expand(2, 20), 50, 0)
    assert right == (pytest.approx(0.8316, abs=1e-4), 1.0) and wrong == (0.0, pytest.approx(0.1684, abs=1e-4))


# ------------------------------------------------------------------ the protocol


def task(spread: float = 2.5, n: int = 400, m: int = 120) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], Labels]:
    """A useless layer before a useful one."""
    (x, y), (q, truth) = blobs(n, spread=spread), blobs(m, spread=spread, seed=1)
    noise = torch.randn(n + m, 8, generator=torch.Generator().manual_seed(2))
    return {"block1": (noise[:n], noise[n:]), "block2": (x, q)}, Labels(y, torch.arange(n) // 4 % 10 == 0, truth, 4)


def test_evaluation_finds_the_good_layer_and_reports_everything():
    layers, labels = task()
    found = evaluate(layers, labels, CONFIG, 0)
    assert found.layer == "block2"
    assert found.numbers["linear_top1"] > 0.6 > 0.5 > found.numbers["holdout_linear_top1_by_layer"]["block1"]
    for name in ("knn", "linear"):
        low, high = found.numbers[f"{name}_interval"]
        assert low < found.numbers[f"{name}_top1"] < high
    assert found.numbers["knn_top1"] == found.numbers["knn"][f"k={found.protocol['k']},T={found.protocol['temperature']:g}"]
    assert found.numbers["linear_top1"] == pytest.approx(float((found.predicted == labels.test).double().mean()))
    few = found.numbers["few_label"]
    assert few["0.05"]["labels"] == 16 and few["0.2"]["labels"] == 80
    assert few["0.05"]["mean"] < few["0.2"]["mean"] <= found.numbers["linear_top1"] + 0.1
    assert found.numbers["nmi"] > 0.1
    assert evaluate(layers, labels, CONFIG, 0).numbers == found.numbers


def test_knn_and_linear_probe_choose_each_its_own_layer():
    """Large noise beside the useful directions blinds cosine similarity, not a probe of standardized features."""
    layers, labels = task()
    pairs = zip(*(layers[name] for name in ("block2", "block1")), strict=True)
    mixed = tuple(torch.cat([useful, 1000 * noise], 1) for useful, noise in pairs)
    coarse = tuple(x[:, -8:] for x in layers["block2"])
    found = evaluate({"block1": coarse, "block2": mixed}, labels, CONFIG, 0)
    assert (found.layer, found.protocol["layer"], found.protocol["knn_layer"]) == ("block2", "block2", "block1")
    for name, layer in (("linear", "block2"), ("knn", "block1")):
        by_layer = found.numbers[f"holdout_{name}_top1_by_layer"]
        assert found.numbers[f"holdout_{name}_top1"] == by_layer[layer] == max(by_layer.values()) > min(by_layer.values())
    k, temperature = found.protocol["k"], found.protocol["temperature"]
    nearest = knn(coarse[0], labels.train, coarse[1], (k,), (temperature,), 4)[k, temperature]
    assert found.numbers["knn_top1"] == pytest.approx(float((nearest == labels.test).double().mean()))


def test_choices_do_not_depend_on_the_test_split():
    layers, labels = task()
    found = evaluate(layers, labels, CONFIG, 0)
    swapped = {name: (train, -test.flip(0)) for name, (train, test) in layers.items()}
    other = evaluate(swapped, replace(labels, test=(labels.test + 1) % 4), CONFIG, 0)
    same = [name for name in found.numbers if name.startswith("holdout_")]
    assert len(same) == 4
    assert [other.numbers[k] for k in same] == [found.numbers[k] for k in same]
    assert other.protocol == found.protocol
    assert other.numbers["linear_top1"] != found.numbers["linear_top1"]


def test_the_holdout_is_not_fitted_when_choosing():
    """With more noise features than images, whoever had seen the held-out labels would know them all by heart."""
    x = torch.randn(160, 400, generator=torch.Generator().manual_seed(0))
    y = torch.randint(4, (160,), generator=torch.Generator().manual_seed(1))
    labels = Labels(y, torch.arange(160) >= 80, y[:8], 4)
    found = evaluate({"block1": (x, x[:8])}, labels, replace(CONFIG, knn_k=(1,)), 0)
    assert found.numbers["holdout_linear_top1"] < 0.5
    assert found.numbers["holdout_knn_top1"] < 0.5
    assert found.numbers["linear_top1"] == found.numbers["knn_top1"] == 1.0  # the final fit does see them


def test_unlabelled_images_count_for_nothing():
    layers, labels = task()
    extra = {name: (torch.cat([train, 100 + train]), torch.cat([test, -test])) for name, (train, test) in layers.items()}
    none, more = torch.full_like(labels.train, -1), torch.cat([labels.holdout, labels.holdout])
    padded = Labels(torch.cat([labels.train, none]), more, torch.cat([labels.test, torch.full_like(labels.test, -1)]), 4)
    assert evaluate(extra, padded, CONFIG, 0).numbers == evaluate(layers, labels, CONFIG, 0).numbers


def test_without_labels_there_are_no_scores_and_the_protocol_says_so():
    layers, labels = task()
    nothing = replace(labels, train=torch.full_like(labels.train, -1), test=torch.full_like(labels.test, -1), num_classes=0)
    found = evaluate(layers, nothing, CONFIG, 0)
    assert (found.layer, found.numbers, found.predicted) == ("block2", {}, None)
    assert "none" in found.protocol["labels"]


def test_without_a_test_split_the_held_out_numbers_remain():
    layers, labels = task()
    layers = {name: (train, test[:0]) for name, (train, test) in layers.items()}
    found = evaluate(layers, replace(labels, test=labels.test[:0]), CONFIG, 0)
    assert set(found.numbers) == {f"holdout_{name}_top1{part}" for name in ("knn", "linear") for part in ("", "_by_layer")}
    assert "no labelled test images" in found.protocol["test"]


def test_without_held_out_labels_nothing_is_chosen():
    layers, labels = task()
    found = evaluate(layers, replace(labels, holdout=torch.zeros_like(labels.holdout)), CONFIG, 0)
    assert found.numbers == {} and "too few" in found.protocol["labels"]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.fault("F53")
def test_odd_labels_are_survived(count):
    """One class only; a class only in the test split; a class with one image; ten times fewer images than k."""
    layers, labels = task(n=24, m=12)
    train = torch.arange(24) % count
    train[5] = 2
    found = evaluate(layers, replace(labels, train=train, holdout=torch.arange(24) > 20), replace(CONFIG, knn_k=(200,)), 0)
    assert found.protocol["k"] == 24
    assert 0 <= found.numbers["linear_balanced"] <= 1


def test_the_predictions_behind_every_held_out_and_few_label_number_are_given():
    layers, labels = task()
    found = evaluate(layers, labels, CONFIG, 0)
    held, judged = labels.train[labels.holdout], found.held_out
    for kind in ("linear", "knn"):
        assert float((judged[kind] == held).double().mean()) == found.numbers[f"holdout_{kind}_top1"]
    for share, numbers in found.numbers["few_label"].items():
        right = (found.few[share] == labels.test).double().mean(1)
        assert len(right) == CONFIG.label_seeds and float(right.mean()) == pytest.approx(numbers["mean"])
        seen = judged[share] == -1
        drawn = [torch.cat(class_balanced_halves(labels.train, float(share), 0, 1, s)) for s in range(CONFIG.label_seeds)]
        assert [int(row.sum()) for row in seen] == [int(labels.holdout[rows].sum()) for rows in drawn]
        right = (judged[share] == held).double().sum(1) / (~seen).sum(1)
        assert float(right.mean()) == pytest.approx(numbers["mean"], abs=0.12)
    untested = {name: (train, test[:0]) for name, (train, test) in layers.items()}
    alone = evaluate(untested, replace(labels, test=labels.test[:0]), CONFIG, 0)
    assert all(torch.equal(alone.held_out[name], guess) for name, guess in judged.items()) and not alone.few


def test_of_layers_that_are_equally_good_the_last_is_taken():
    x, y = blobs(200)
    held = torch.arange(200) % 5 == 0
    found = evaluate({"block1": (x, x), "block2": (x, x)}, Labels(y, held, y, 4), replace(CONFIG, bootstrap=40), 0)
    assert found.layer == found.protocol["layer"] == found.protocol["knn_layer"] == "block2"
    shuffled = x[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    first, last = (Task(x, y, test, y, 4, False) for test in (shuffled, x))
    assert few_labels.few_labels([first, last], held, CONFIG, 0).numbers["0.2"]["mean"] > 0.8


def test_of_strengths_that_are_equally_good_the_greatest_is_taken(monkeypatch):
    y = torch.arange(80) % 2
    x, held = torch.stack([y * 2.0 - 1, torch.zeros(80)], 1), torch.arange(80) % 4 < 2
    chosen = _choose_linear(x, Labels(y, held, y, 2), ~held, held, CONFIG)
    assert chosen.accuracy == 1 and chosen.strength == pytest.approx(CONFIG.linear_lambda_range[1])
    asked, fit = [], few_labels.linear_classifier
    monkeypatch.setattr(few_labels, "linear_classifier", lambda *given: asked.append(given[2]) or fit(*given))
    few_labels.few_labels([Task(x, y, x, y, 2, False)], held, replace(CONFIG, label_fractions=(0.2,)), 0)
    assert asked[-1].flatten().tolist() == pytest.approx([CONFIG.linear_lambda_range[1]] * CONFIG.label_seeds)


def test_the_probe_that_is_tested_is_fitted_to_the_end():
    (x, y), (q, truth) = blobs(300, spread=3.0), blobs(3000, spread=3.0, seed=1)
    found = evaluate({"block1": (x, q)}, Labels(y, torch.arange(300) % 5 == 0, truth, 4), replace(CONFIG, bootstrap=40), 0)
    strength = torch.tensor([[found.protocol["lambda"]]], dtype=torch.float64)
    exact = linear_probe(x[None], y[None], strength, 4, 1e-9).predict(q)[0, 0]
    assert (found.predicted == exact).double().mean() > 0.99


def test_the_class_that_is_always_named_is_the_most_frequent_one_of_the_training_labels():
    x, train, test = blobs(100)[0], (torch.arange(100) >= 70).long(), (torch.arange(100) >= 40).long()
    labels = Labels(train, torch.arange(100) % 5 == 0, test, 2)
    assert evaluate({"block1": (x, x)}, labels, replace(CONFIG, bootstrap=40), 0).numbers["majority_top1"] == 0.4


def test_of_several_starts_the_clusters_with_the_least_inertia_are_taken(monkeypatch):
    classes, lumped = torch.arange(8) % 2, torch.zeros(8, dtype=torch.int64)
    x = torch.eye(2)[classes]
    monkeypatch.setattr(protocol, "kmeans", lambda *given: (torch.eye(2), classes if given[-1] == 2 else lumped))
    assert torch.equal(protocol._clusters(Task(x, classes, x, classes, 2, False), 0), classes)


def test_few_labels_are_balanced_disjoint_and_of_one_size():
    labels = torch.cat([torch.zeros(900, dtype=torch.long), torch.ones(98, dtype=torch.long), torch.full((2,), 2)])
    for seed in range(3):
        first, second = class_balanced_halves(labels, 0.1, 0, seed)
        assert labels[first].bincount().tolist() == labels[second].bincount().tolist() == [17, 17, 1]
        assert not set(first.tolist()) & set(second.tolist())
    assert not torch.equal(class_balanced_halves(labels, 0.1, 0, 0)[0], class_balanced_halves(labels, 0.1, 0, 1)[0])


def test_blocks_of_an_untrained_encoder_tell_bright_from_dark_images():
    encoder = encoder_of(width=8).eval()
    level = torch.arange(200) % 2
    images = torch.randn(200, 1, 16, 16, generator=torch.Generator().manual_seed(0)) + level.view(-1, 1, 1, 1).float()
    with torch.no_grad():
        maps = encoder.blocks(images)
    layers = {f"block{i + 1}": (m.mean((2, 3))[:150], m.mean((2, 3))[150:]) for i, m in enumerate(maps)}
    found = evaluate(layers, Labels(level[:150], torch.arange(150) % 5 == 0, level[150:], 2), CONFIG, 0)
    assert found.numbers["linear_top1"] > 0.9


def test_few_labels_choose_their_layer_without_the_held_out_ones():
    """A single held-out image that noise gets right too chooses the noise for the probe of all labels, and nothing else."""
    layers, labels = task()
    upside_down = {"block1": layers["block2"], "block2": layers["block1"]}
    usual = evaluate(upside_down, labels, CONFIG, 0)
    alone = (replace(labels, holdout=torch.arange(len(labels.train)) == row) for row in range(20))
    misled = next(found for one in alone if (found := evaluate(upside_down, one, CONFIG, 0)).layer == "block2")
    assert usual.layer == "block1" and misled.numbers["linear_top1"] < usual.numbers["linear_top1"]
    assert misled.numbers["few_label"] == usual.numbers["few_label"]


def test_a_grid_is_widened_where_its_last_value_is_the_best_and_named_where_that_is_not_enough():
    """Two labels of five are wrong, so more neighbors know more; one class is rare, so much strength predicts the other."""
    truth, held = (torch.arange(600) % 10 > 6).long(), torch.arange(600) % 3 == 0
    x = F.one_hot(truth, 2) + 0.6 * torch.randn(600, 2, generator=torch.Generator().manual_seed(1))
    wrong = torch.rand(600, generator=torch.Generator().manual_seed(0)) < 0.4
    noisy, clean = (Labels(y, held, truth[:0], 2) for y in (torch.where(wrong, 1 - truth, truth), truth))
    near = _choose_knn(x, noisy, ~held, held, replace(CONFIG, knn_k=(1, 3), knn_temperature=(1.0,)))
    assert near.k == 6 and near.edges == ()
    enough, narrow = (
        _choose_linear(x, clean, ~held, held, replace(CONFIG, linear_lambda_range=edges, linear_lambdas=count))
        for edges, count in (((0.1, 3.0), 6), ((0.8, 1.0), 3))
    )
    assert enough.edges == () and narrow.edges == ("lambda",)
    assert narrow.strength < 0.5 and narrow.accuracy > 0.85


@pytest.mark.parametrize(
    ("accuracy", "best", "edge"),
    [([0.5], 0, 0), ([0.5, 0.6], 1, 1), ([0.6, 0.5], 0, -1), ([0.5, 0.6, 0.5], 1, 0), ([0.5, 0.6, 0.6], 2, 0)],
)
def test_an_edge_counts_only_where_the_score_still_rises(accuracy, best, edge):
    assert _rising_edge(accuracy, best) == edge
