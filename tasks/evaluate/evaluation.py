"""Stages ``evaluate`` and ``evaluate_task``: score one encoder by its frozen features, on the pool's images or a task's.

How an untrained network does is luck: encoders of some more seeds are scored beside it, and stand in the same files.
"""

import csv
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_core.config import typed
from ssl_core.engine.augment import AugmentConfig, at_side, normalize
from ssl_core.engine.data import Images
from ssl_core.engine.encoders import Encoder, EncoderConfig, build, pool
from ssl_core.engine.features import frozen
from ssl_core.engine.health import health, judge, watched
from ssl_core.engine.optim import TrainConfig
from ssl_core.engine.train import Trainer
from ssl_core.evaluation.protocol import Labels, Scores, evaluate
from ssl_core.methods import random_init
from tasks.judged import ACTUAL, GROUP
from tasks.metrics import Health, Metrics, class_in_predictions, prediction_columns, to_json
from tasks.runtime import dataset, files, params, saved_encoder
from tasks.runtime.dataset import IN_POOL
from tasks.runtime.errors import Diverged
from tasks.runtime.progress import Progress
from tasks.runtime.stage import Stage
from tasks.tracking.journal import Journal, of_encoder

Features = Mapping[str, tuple[Tensor, Tensor]]
"""Of training and test images, by layer."""
CHOICES = "layers, k, temperature and lambda on held-out training labels"


def extract(
    encoder: Encoder,
    images: dataset.Array,
    facts: dict[str, Any],
    batch: int,
    device: torch.device,
    each: Callable[[int], None] = lambda done: None,
) -> dict[str, Tensor]:
    """Pooled outputs of every block, first to last, un-augmented, in evaluation mode and the precision of the training.

    Args:
        images: (N, C, H, W) uint8.
        facts: the encoder's; their side of images, mean, std and precision are used.
        each: called after each batch with the number of images done.

    Returns:
        (N, D_l) float32 on the CPU by layer: ``block1``, ``block2``, ...
    """

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(images), batch):
            x = torch.from_numpy(np.array(images[start : start + batch])).to(device)
            yield normalize(at_side(x, facts["encoder"]["image_size"]), facts["mean"], facts["std"])
            each(min(start + batch, len(images)))

    encoder.to(device)
    layers = frozen(encoder, batches(), facts["precision"], lambda x: [pool(maps).cpu() for maps in encoder.blocks(x)])
    return {f"block{number}": layer for number, layer in enumerate(layers, 1)}


@dataclass(frozen=True)
class Delivered:
    """The features of the layer that is handed out, which need not be the last one, that the training watched."""

    protocol: dict[str, int]
    """``dim``, how many they are; ``health_images``, of how many training images ``health`` is."""
    health: dict[str, float]
    """``feature_std``, ``effective_rank`` and ``uniformity``; empty for a single image."""


def delivered(features: Tensor, images: int) -> Delivered:
    """What is known without labels of (N, D) features of the training images; ``images``: how many of them judge, the same ones
    as during the training."""
    few = features[watched(len(features), images)]
    return Delivered({"dim": few.shape[1], "health_images": len(few)}, health(few) if len(few) > 1 else {})


@dataclass(frozen=True)
class Another:
    """An untrained encoder of another seed."""

    metrics: Metrics
    scores: Scores


class Evaluation:
    """One encoder: its features, its scores, its files.

    Args:
        task: one of ``run.tasks``, whose images it is scored on; None: those it was trained on.
    """

    def __init__(self, stage: Stage, name: str, seed: int, device: torch.device, task: str | None = None):
        self.stage, self.name, self.seed, self.device, self.task = stage, name, seed, device, task
        self.key = f"{name}-{seed}"
        self.file = f"{task}/{self.key}" if task else self.key
        self.directory = Path("out/encoders") / self.key
        self.config = params.evaluate_config(params.load())
        self.prepared = dataset.prepared(task)
        self.data = dataset.load(self.prepared)
        self.classes: list[str] = self.data.meta["classes"]
        self.encoder, self.facts = saved_encoder.load(self.directory)
        arrays = (self.data.train_labels, self.data.train_holdout, self.data.test_labels)
        train, holdout, test = (torch.from_numpy(np.array(a)) for a in arrays)
        groups = (None if g is None else torch.from_numpy(np.array(g)) for g in (self.data.train_groups, self.data.test_groups))
        self.labels = Labels(train, holdout, test, len(self.classes), *groups).of_at_most(self.config.max_classes)

    def run(self) -> None:
        """Extract, score, write."""
        started = time.monotonic()
        with Journal(self.stage.work / "journal.jsonl", position=0) as journal:  # nothing is resumed: begin anew
            journal.start(**of_encoder(self.stage, self.name, self.seed, self.data, self.task, vars(self.config)))
            layers = self._features(self.encoder)
            scores = evaluate(layers, self.labels, self.config, self.seed)
            metrics = self._metrics(scores, layers)
            self._write(layers[scores.layer], metrics, scores, self._others(metrics))
            few = {f"linear_top1_{100 * probe.share:g}pct": probe.mean for probe in metrics.few_labels()}
            numbers = {k: v for k, v in metrics.found.items() if isinstance(v, float)} | few
            numbers = ({} if self.task else vars(metrics.health)) | numbers
            of_task, below = (f"{self.task}/", f"/{self.task}") if self.task else ("", "")
            # MLflow compares numbers of step 0 as bars, others as points along the steps.
            journal.metrics(0, {f"{of_task}{name}": number for name, number in numbers.items()})
            said = {"health": metrics.verdict, "protocol": metrics.protocol}
            journal.tags({self.task: {"protocol": metrics.protocol}} if self.task else said)
            for kind in ("csv", "safetensors"):
                journal.artifact(Path(f"out/predictions/{self.file}.{kind}"), f"predictions{below}")
            journal.artifact(Path(f"out/metrics/{self.file}.json"), f"metrics{below}")
            cost = {"evaluation_seconds": time.monotonic() - started}
            journal.end("FINISHED", cost={} if self.task else cost, encoder_sha256=metrics.encoder_sha256)
            journal.publish(self.stage.out(f"out/journal/evaluate-{self.file.replace('/', '-')}.jsonl"))

    # ------------------------------------------------------------------ measuring

    def _features(self, encoder: Encoder) -> dict[str, tuple[Tensor, Tensor]]:
        """Features of both splits by candidate layer, rounded to float16: what is scored is what is stored."""
        train, test = (self._extract(encoder, split) for split in ("train", "test"))
        chosen = list(train)[-self.config.layers :]
        found = {layer: (train[layer], test.get(layer, train[layer][:0])) for layer in chosen}
        if not all(torch.isfinite(x).all() for pair in found.values() for x in pair):
            raise Diverged(f"the features of {self.key} are not finite; lower train.lr and train it again")
        largest = torch.finfo(torch.float16).max
        return {layer: tuple(x.clamp(-largest, largest).half().float() for x in pair) for layer, pair in found.items()}  # type: ignore[misc]

    def _extract(self, encoder: Encoder, split: str) -> dict[str, Tensor]:
        images = getattr(self.data, f"{split}_images")
        show = Progress(f"{self.key}: {split} features", len(images), "images", file=self.stage.work / "progress.json")

        def each(done: int) -> None:
            show.update(done)
            self._maybe_leave()

        return extract(encoder, images, self.facts, self.config.batch_size, self.device, each)

    def _maybe_leave(self) -> None:
        if self.stage.stop_requested():
            self.stage.leave()

    def _others(self, metrics: Metrics) -> list[Another]:
        """Of an untrained encoder: the same for further seeds."""
        if self.name != "random_init" or "linear_top1" not in metrics.found:
            return []
        return [self._untrained(self.seed + number, metrics) for number in range(1, self.config.untrained)]

    def _untrained(self, seed: int, metrics: Metrics) -> Another:
        """The encoder that ``pretrain`` would make of this seed, measured the same way."""
        made, facts = self.facts["encoder"], self.facts
        encoder = build(typed(EncoderConfig, made["config"], "encoder"), made["channels"], made["image_size"], seed)
        train, augment = typed(TrainConfig, facts["train"], "train"), typed(AugmentConfig, facts["augment"], "augment")
        pool = dataset.load() if self.task else self.data  # health is that on the images which others are trained on
        method = random_init.RandomInit(encoder, random_init.RandomInit.Config(), augment, pool.info())
        trainer = Trainer(method, Images(pool.train_images, self.device), train, seed, epochs=0)
        seen = Health.of(trainer.health(method.exported))
        layers = self._features(method.exported)
        scores = evaluate(layers, self.labels, self.config, seed)
        given = self._delivered(scores, layers)
        found = {"health": seen, "random_health": seen, "found": self._named(scores.numbers) | given.health}
        protocol = self._protocol() | scores.protocol | given.protocol
        return Another(replace(metrics, seed=seed, layer=scores.layer, protocol=protocol, encoder_sha256="", **found), scores)

    # ------------------------------------------------------------------ the result

    def _metrics(self, scores: Scores, layers: Features) -> Metrics:
        facts, given = self.facts, self._delivered(scores, layers)
        return Metrics(
            method=self.name,
            seed=self.seed,
            encoder=facts["encoder"]["config"]["name"],
            encoder_sha256=files.sha256(self.directory / saved_encoder.WEIGHTS),
            layer=scores.layer,
            verdict=judge(facts["health"], facts["random_health"]),
            health=Health.of(facts["health"]),
            random_health=Health.of(facts["random_health"]),
            protocol=self._protocol() | scores.protocol | given.protocol,
            found=self._named(scores.numbers) | given.health | self._about_task(),
        )

    def _delivered(self, scores: Scores, layers: Features) -> Delivered:
        """Of the layer that was chosen, on as many images as the training watched."""
        return delivered(layers[scores.layer][0], typed(TrainConfig, self.facts["train"], "train").health_images)

    def _named(self, numbers: dict[str, Any]) -> dict[str, Any]:
        """``numbers`` with the classes by their names."""
        if "per_class" not in numbers:
            return numbers
        return numbers | {"per_class": dict(zip(self.classes, numbers["per_class"], strict=True))}

    def _about_task(self) -> dict[str, Any]:
        """Of a task, what its preparation found: which of its test images are in the pool."""
        return {"task": self.task, "in_pool": files.read_json(self.prepared / IN_POOL)} if self.task else {}

    def _protocol(self) -> dict[str, Any]:
        """What the numbers mean, stored with them; the choices come from the result."""
        manifest = files.read_json(self.prepared / files.MANIFEST)
        chosen = bool(self.labels.holdout[self.labels.train >= 0].any())
        tested = "; test read once" if (self.labels.test >= 0).any() else "; no test"
        return {
            "features": "frozen, evaluation mode, no augmentation, global average of the layer's output",
            "choices": CHOICES + tested if chosen else "none, for there are no labels",
            "epoch": "last",
            "image_size": self.facts["encoder"]["image_size"],
            "precision": self.facts["precision"],
            **{f"start_{key}": self.facts["start"][key] for key in ("source", "sha256") if "start" in self.facts},
            **{key: self.facts[key] for key in ("few_images",) if key in self.facts},
            "split_sha256": manifest["files"]["train_holdout.npy"]["sha256"],
            "data_sha256": self.data.sha256,
        }

    def _write(self, features: tuple[Tensor, Tensor], metrics: Metrics, scores: Scores, others: Sequence[Another]) -> None:
        arrays = {name: x.half().numpy() for name, x in zip(("train", "test"), features, strict=True)}
        files.save_tensors(self.stage.out(f"out/features/{self.file}.safetensors"), arrays, {"layer": scores.layer})
        files.write_json(self.stage.out(f"out/metrics/{self.file}.json"), to_json(metrics, [other.metrics for other in others]))
        files.write_text(self.stage.out(f"out/predictions/{self.file}.csv"), self._predictions(scores, others))
        files.save_tensors(self.stage.out(f"out/predictions/{self.file}.safetensors"), self._judged(scores, others))

    def _judged(self, scores: Scores, others: Sequence[Another]) -> dict[str, np.ndarray]:
        """Classes of the held-out images, and of the test images by few labels, as int32; see ``tasks/judged.py``."""
        labels, held = self.labels, self.labels.holdout & (self.labels.train >= 0)
        parts = {
            "held_out": (labels.train, labels.train_groups, held),
            "test": (labels.test, labels.test_groups, labels.test >= 0),
        }
        found = {f"{split}/{ACTUAL}": actual[rows] for split, (actual, _, rows) in parts.items() if scores.held_out}
        grouped = {split: groups[rows] for split, (_, groups, rows) in parts.items() if scores.held_out and groups is not None}
        found |= {f"{split}/{GROUP}": numbers for split, numbers in grouped.items()}
        for prefix, each in {"": scores, **{f"{other.metrics.seed}/": other.scores for other in others}}.items():
            for split, guesses in (("held_out", each.held_out), ("test", each.few)):
                found |= {f"{prefix}{split}/{probe}": guess for probe, guess in guesses.items()}
        return {name: guess.numpy().astype(np.int32) for name, guess in found.items()}

    def _predictions(self, scores: Scores, others: Sequence[Another]) -> str:
        """CSV of the actual class of every labelled test image, and of what linear probe and kNN predict."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        columns = {None: scores} | {other.metrics.seed: other.scores for other in others}
        writer.writerow(["actual", *(name for seed in columns for name in prediction_columns(seed))])
        if scores.predicted is not None:
            names = [class_in_predictions(name) for name in self.classes]
            truth = self.labels.test[self.labels.test >= 0]
            guesses = [guess for found in columns.values() for guess in (found.predicted, found.nearest) if guess is not None]
            writer.writerows([names[c] for c in image] for image in torch.stack([truth, *guesses], 1).tolist())
        return out.getvalue()
