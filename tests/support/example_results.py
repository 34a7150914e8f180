"""Writes a project's results as the stages leave them, with plausible numbers, in a second and without training."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np

from tasks.metrics import Health, Metrics, prediction_columns
from tasks.report.pictures import png
from tasks.runtime import audit, files
from tasks.runtime.audit import Conflicts, Labelled, Leaks, NearDuplicates, NearPair, Quarantined, Repeats
from tasks.tracking.journal import Journal
from tests.conftest import ROOT
from tests.support import audits

CLASSES = [
    "T-shirt",
    "<script>alert('class')</script>",
    "=cmd()",
    "a$b$ & c|d",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Boot",
]
# name: (how much of the class is in the features, verdict)
SKILL = {
    "simclr": 1.0,
    "byol": 0.9,
    "rotation": 0.6,
    "jigsaw": 0.5,
    "moco": 0.95,
    "raw_pixels": 0.55,
    "random_init": 0.4,
    "supervised": 1.6,
}
VERDICTS = {"jigsaw": "dimensional collapse"}
WARNINGS = {"jigsaw": ["an alarm of its own"]}
PRETEXT = {"rotation": 0.71, "jigsaw": 0.44, "supervised": 0.9}
"""Accuracy in the method's own task at the end."""
HELD_OUT = 200
RATES = {"simclr": 0.15}
OTHERS = {"random_init": (1, 2)}
"""Seeds of further encoders that stand in the files of the first."""


def write_project(root: Path, methods=tuple(SKILL), seeds=(0,), labelled=True, num_test=300, channels=1, classes=CLASSES):
    """Fill ``root`` with params.yaml, data/prepared and out/ for ``methods`` x ``seeds``."""
    root.mkdir(parents=True, exist_ok=True)
    source = ROOT / "params.yaml"
    text = source.read_text()
    head, tail = text[: text.index("run:")], text[text.index("\ndata:") :]
    (root / "params.yaml").write_text(
        f"{head}run:\n  methods: {list(methods)}\n  seeds: {list(seeds)}\n  finetune: []\n  tasks: []\n{tail}".replace("'", "")
    )
    labels = write_data(root, labelled, num_test, channels, classes)
    for method in methods:
        for seed in seeds:
            write_result(root, method, seed, labels, labelled, classes)
    return root


def write_data(root, labelled, num_test, channels, classes):
    """Images whose pattern depends on the class; returns the test labels."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (len(classes), channels, 7, 7)).repeat(4, 2).repeat(4, 3)

    def fill(directory):
        for split, count in (("train", 400), ("test", num_test)):
            labels = np.arange(count) % len(classes)
            images = np.clip(patterns[labels] + rng.integers(0, 56, (count, channels, 28, 28)), 0, 255).astype(np.uint8)
            np.save(directory / f"{split}_images.npy", images)
            np.save(directory / f"{split}_labels.npy", labels if labelled else np.full(count, -1))
        np.save(directory / "train_holdout.npy", np.arange(400) % 10 == 0)
        meta = {
            "name": "example",
            "classes": list(classes) if labelled else [],
            "image_size": 28,
            "channels": channels,
            "mean": [0.5] * channels,
            "std": [0.2] * channels,
            "num_train": 400,
            "num_test": num_test,
            "source": "made up",
            "license": "none",
        }
        files.write_json(directory / "meta.json", meta)
        audit.write(directory, audit_of(labelled, num_test, classes))

    files.write_directory(root / "data/prepared", fill)
    return np.arange(num_test) % len(classes)


def audit_of(labelled, num_test, classes):
    """What the audit would say, with names that try to be HTML."""
    counts = {"train": dict.fromkeys(classes, 40), "test": dict.fromkeys(classes, num_test // 10)}
    pairs = (NearPair(0, 10, 0.9, False), NearPair(1, 11, 0.9, True))[:num_test]
    return audits.audit(
        warnings=("<b>file & name.png</b> is odd",),
        quarantined=(Quarantined("<i>bad.png</i>", "truncated"),),
        duplicates={"train": Repeats(1, 1, 0, (("a.png", "b.png"),)), "test": Repeats(0, 0, 0, ())},
        leaks=Leaks(2, 2, 2, ("leaked.png",)),
        near_duplicates=NearDuplicates(2, num_test, 0.8, 1, pairs),
        conflicts=Conflicts(1, ((Labelled("a.png", "Coat"), Labelled("b.png", "Bag")),)),
        classes=counts if labelled else {},
        formats={"PNG": 700},
    )


def write_result(root, method, seed, labels, labelled, classes):
    """The files of one encoder."""
    name, skill = f"{method}-{seed}", SKILL.get(method, 0.7)
    rng = np.random.default_rng([seed, *method.encode()])
    centers = rng.normal(size=(len(classes), 32)) * skill
    verdict = VERDICTS.get(method, "healthy")
    features = {
        s: (centers[np.arange(n) % len(classes)] + rng.normal(size=(n, 32))).astype(np.float16)
        for s, n in (("train", 400), ("test", len(labels)))
    }
    files_dir = root / "out"
    (files_dir / "features").mkdir(parents=True, exist_ok=True)
    files.save_tensors(files_dir / f"features/{name}.safetensors", features)
    linear = float(min(0.97, 0.45 + 0.3 * skill + 0.01 * rng.normal()))
    others = [seed + number for number in OTHERS.get(method, ())] if labelled else []
    guesses = {s: predictions(labels, linear, len(classes), rng) for s in (seed, *others)}
    health = {"feature_std": 0.17, "effective_rank": 8 + 9 * skill + rng.normal(), "alignment": 0.4, "uniformity": -2.1}
    shares = {s: tuple(float((guess == labels).mean()) for guess in both) for s, both in guesses.items()} if len(labels) else {}
    write_metrics(root, method, {s: shares.get(s, (linear, linear - 0.05)) for s in guesses}, health, verdict, labelled)
    if labelled and len(labels):
        write_predictions(files_dir / f"predictions/{name}.csv", labels, guesses, classes)
    if labelled:
        path = files_dir / f"predictions/{name}.safetensors"
        files.save_tensors(path, judged(linear, labels, len(classes), [seed, *others], rng))
    epochs = 0 if method in ("raw_pixels", "random_init") or (method == "supervised" and not labelled) else 8
    write_encoder(files_dir / f"encoders/{name}", method, seed, epochs, health, rng)
    write_history(files_dir / f"history/{name}.csv", epochs, health, rng, PRETEXT.get(method))
    with Journal(files_dir / f"journal/{name}.jsonl") as journal:
        tags = {"device": "cpu", "torch": "2.14.1", "precision": "bf16"}
        journal.start(fingerprint="0" * 64, stage=f"pretrain@{name}", name=method, seed=seed, tags=tags, params={})
        journal.end("KILLED", cost={"seconds": 1.0, "images_per_second": 1.0})
        cost = {
            "seconds": 41.5 + seed,
            "images_per_second": 2000.0 * bool(epochs),
            "peak_memory_bytes": 600 << 20,
            "parameters": 176000,
        }
        journal.end("FINISHED", cost=cost)


def metrics_of(method: str, seed: int = 0, verdict: str = "healthy", **found: object) -> Metrics:
    """Metrics with the scores in ``found`` and otherwise those of some encoder."""
    health = Health(feature_std=0.17, effective_rank=11.0, alignment=0.4, uniformity=-2.1)
    about = {
        "encoder": "small",
        "encoder_sha256": hashlib.sha256(method.encode()).hexdigest(),
        "layer": "block4",
        "health": health,
        "random_health": health,
    }
    return Metrics(method=method, seed=seed, verdict=verdict, protocol={}, found=found, **about)


def write_metrics(root, method, scores, health, verdict, labelled):
    """The first of ``scores`` (linear, kNN by seed) is the encoder's own."""
    (seed, first), *others = [(s, metrics_file(method, s, *pair, health, verdict, labelled)) for s, pair in scores.items()]
    files.write_json(
        root / f"out/metrics/{method}-{seed}.json", first | ({"other_seeds": [m for _, m in others]} if others else {})
    )


def metrics_file(method, seed, linear, knn, health, verdict, labelled):
    """What stands in it of one encoder."""
    metrics = {
        "method": method,
        "seed": seed,
        "encoder": "small",
        "layer": "block4",
        "health": health,
        "random_health": health | {"effective_rank": 11.0},
        "verdict": verdict,
        "encoder_sha256": hashlib.sha256(method.encode()).hexdigest(),
        "protocol": {
            "layer": "block4",
            "knn_layer": "block3",
            "image_size": 28,
            "precision": "float32",
            "split_sha256": "cd" * 32,
            "lambda": 0.01 * (1 + seed),
        },
    }
    if labelled:
        metrics |= {
            "knn_top1": knn,
            "knn_interval": [knn - 0.02, knn + 0.02],
            "linear_top1": linear,
            "nmi": 0.5,
            "ari": 0.4,
            "linear_interval": [linear - 0.02, linear + 0.02],
            "holdout_knn_top1": linear - 0.04,
            "holdout_linear_top1": linear + 0.01,
            "few_label": {"0.01": {"mean": linear - 0.25, "std": 0.03}, "0.1": {"mean": linear - 0.1, "std": 0.01}},
        }
    return metrics


def predictions(labels, linear, classes, rng):
    """What linear probe and kNN predict; the images that are hard are mostly the same for all."""
    hard, guesses = np.random.default_rng(0).permutation(len(labels)) / max(1, len(labels)), []
    for share in (linear, linear - 0.05):
        wrong = hard + rng.uniform(-0.1, 0.1, len(labels)) > share
        guesses.append((labels + rng.integers(1, 3, len(labels)) * wrong) % max(1, classes))
    return guesses


def judged(linear, labels, classes, seeds, rng):
    """What probes say of 200 held-out images, and those on few labels of the test images too."""
    held = np.arange(HELD_OUT) % classes
    found = {"held_out/actual": held, "test/actual": labels}
    for prefix in ["", *(f"{seed}/" for seed in seeds[1:])]:
        for name, guess in zip(("linear", "knn"), predictions(held, linear, classes, rng), strict=True):
            found[f"{prefix}held_out/{name}"] = guess
        for share, lost in (("0.01", 0.25), ("0.1", 0.1)):
            choices = range(3)
            for split, truth in (("held_out", held), ("test", labels)):
                guesses = [predictions(truth, linear - lost, classes, rng)[0] for _ in choices]
                found[f"{prefix}{split}/{share}"] = np.stack(guesses)
            found[f"{prefix}held_out/{share}"][:, :: int(1 / float(share))] = -1  # these labels were seen
    return {name: guess.astype(np.int32) for name, guess in found.items()}


def write_predictions(path, labels, guesses, classes):
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"actual": labels}
    for number, (seed, both) in enumerate(guesses.items()):
        columns |= dict(zip(prediction_columns(seed if number else None), both, strict=True))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([classes[c] for c in image] for image in zip(*columns.values(), strict=True))


def write_encoder(directory, method, seed, epochs, health, rng):
    def fill(temp):
        (temp / "views.png").write_bytes(png(rng.integers(0, 256, (3 * 34, 8 * 34), dtype=np.uint8)))
        facts = {
            "method": method,
            "seed": seed,
            "encoder": {"config": {"name": "small"}, "channels": 1, "image_size": 28},
            "dim": 128,
            "epochs": epochs,
            "steps_per_epoch": 78,
            "parameters": 176000,
            "train": {
                "epochs": 8,
                "batch_size": 128,
                "optimizer": "adamw",
                "lr": RATES.get(method, 0.004),
                "weight_decay": 1e-4,
            },
            "augment": {"crop_scale": [0.4, 1.0], "blur": 0.5 if method == "simclr" else 0.0},
            "health": health | {"step": 78 * epochs} | pretext_of(method),
            "random_health": {**health, "effective_rank": 11.0},
            "warnings": WARNINGS.get(method, []),
        }
        (temp / "encoder.json").write_text(json.dumps(facts))

    files.write_directory(directory, fill)


def pretext_of(method):
    """Accuracy in the method's own task, and that of guessing."""
    chance = {"rotation": 0.25, "jigsaw": 1 / 24, "supervised": 0.1}
    return {"accuracy": PRETEXT[method], "chance": chance[method]} if method in PRETEXT else {}


def write_history(path, epochs, health, rng, accuracy=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["epoch,step,feature_std,effective_rank,alignment,uniformity,knn,loss" + ",accuracy" * bool(accuracy)]
    for epoch in range(epochs + 1):
        share = epoch / max(epochs, 1)
        rank = 11 + (health["effective_rank"] - 11) * share + rng.normal() * 0.3
        loss = f"{4 - 2 * share + 0.05 * rng.normal():.4f}" if epoch else ""
        known = (0.1 + 0.07 * share, 0.6 - 0.2 * share, -1.5 - 0.6 * share, 0.3 + 0.3 * share**0.5)
        std, alignment, uniformity, knn = (f"{value:.4f}" for value in known)
        lines.append(
            f"{epoch},{epoch * 78},{std},{rank:.3f},{alignment},{uniformity},{knn},{loss}"
            + (f",{accuracy * share:.6g}" if accuracy else "")
        )
    path.write_text("\n".join(lines) + "\n")
