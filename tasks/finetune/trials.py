"""The trainings of one encoder with labels of the pool or of a task: candidates of the rate, then one with the best, for each
choice of labels.

A training takes seconds. What an ended one predicted is kept in the stage's work directory, so that a stage which was stopped
goes on with the next.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_core.config import ConfigError
from ssl_core.engine.augment import at_side, normalize
from ssl_core.engine.encoders import num_parameters
from ssl_core.engine.features import frozen
from ssl_core.engine.train import NonFinite
from ssl_core.evaluation.comparison import interval
from ssl_core.evaluation.protocol import Labels
from ssl_core.evaluation.scores import top1
from ssl_core.finetuning import Draw, best_rate, draws, finetune
from tasks.runtime import dataset, files, params, saved_encoder
from tasks.runtime.errors import Diverged, IntegrityError
from tasks.runtime.progress import Progress
from tasks.runtime.recipes import FinetuneParams, refuse_to_tune
from tasks.runtime.stage import Stage
from tasks.tracking.journal import Journal, of_encoder

BATCH = 500
"""Images that pass through an encoder at a time after its training."""
NONE = -1
"""In place of a class where the rate was too high for any."""


def _alike(first: Sequence[Draw], second: Sequence[Draw]) -> bool:
    """Whether two shares are the same choices of labels."""
    return len(first) == len(second) and all(all(map(torch.equal, a, b)) for a, b in zip(first, second, strict=True))


def _remembered(path: Path, count: int) -> Tensor | None:
    """What an ended training predicted of ``count`` images; None where it is to be made, perhaps again."""
    if not path.exists():
        return None
    try:
        guess = files.load_tensors(path)["guess"]
        if guess.shape != (count,) or guess.dtype != np.int64:
            raise IntegrityError(f"it holds {guess.dtype} {guess.shape}")
    except (IntegrityError, KeyError) as error:
        print(f"warning: {path.name} is damaged, and that training made again ({error})", file=sys.stderr)
        path.unlink()
        return None
    return torch.from_numpy(guess.copy())


class Trials:
    """One encoder, its trainings with labels, and its files.

    Args:
        task: one of ``run.tasks``, with whose images it is trained; None: those it was pretrained on.
    """

    def __init__(
        self, stage: Stage, name: str, seed: int, device: torch.device, recipe: FinetuneParams, task: str | None = None
    ):
        self.stage, self.name, self.seed, self.device, self.recipe, self.task = stage, name, seed, device, recipe, task
        self.key, self.directory = f"{name}-{seed}", Path("out/encoders") / f"{name}-{seed}"
        self.file = f"finetune/{task}/{self.key}" if task else f"finetune/{self.key}"
        self.evaluate = params.evaluate_config(params.load())
        self.data = dataset.load(dataset.prepared(task))
        self.encoder, self.facts = saved_encoder.load(self.directory)
        arrays = (self.data.train_labels, self.data.train_holdout, self.data.test_labels)
        train, holdout, test = (torch.from_numpy(np.array(a)) for a in arrays)
        self.labels = Labels(train, holdout, test, len(self.data.meta["classes"])).of_at_most(self.evaluate.max_classes)
        self.test = torch.nonzero(self.labels.test >= 0)[:, 0]
        groups = self.data.test_groups
        self.groups = None if groups is None else torch.from_numpy(np.array(groups))[self.test]
        self.is_labelled = dataset.can_tune(self.labels.train, holdout, self.labels.test)
        if not self.is_labelled and (task or not params.run_config(params.load()).tasks):
            raise refuse_to_tune(task)
        if not num_parameters(self.encoder):
            raise ConfigError(f"run.finetune: {name} has no weights to train; take it out")

    def run(self) -> None:
        """Train, choose, write; of a pool without labels, whose tasks have them, that nothing was trained."""
        if not self.is_labelled:
            print(f"{self.key}: the images of data have no labels to fine-tune with; those of run.tasks have", file=sys.stderr)
        started, config = time.monotonic(), self.recipe.config
        with Journal(self.stage.work / "journal.jsonl", position=0) as journal:
            journal.start(**of_encoder(self.stage, self.name, self.seed, self.data, self.task, asdict(self.recipe)))
            asked = sorted(config.shares) if self.is_labelled else []
            chosen = {f"{share:g}": draws(self.labels, share, config.draws, self.seed) for share in asked}
            for share, own in chosen.items():
                if min(len(draw.fit) for draw in own) < 2:
                    raise ConfigError(f"finetune.shares: {share} of the labels leaves one image to train on; take it out")
            same = {share: next(s for s, other in chosen.items() if _alike(own, other)) for share, own in chosen.items()}
            count = sum(len(chosen[share]) for share in set(same.values())) * (len(config.lr) + 1)
            self.show = Progress(f"{self.key}: fine-tuning", count, "trainings", file=self.stage.work / "progress.json")
            self.done = 0
            found: dict[str, list[tuple[float, Tensor]]] = {}
            for share, first in same.items():  # of few images in many classes, several shares are the same labels
                drawn = enumerate(chosen[share])
                found[share] = found[first] if first in found else [self._tuned(draw, share, n) for n, draw in drawn]
            truth = self.labels.test[self.test]
            guesses = {share: torch.stack([guess for _, guess in own]) for share, own in found.items()}
            shares = {share: self._numbers(guesses[share], truth, found[share], chosen[share][0]) for share in found}
            encoder_sha256 = files.sha256(self.directory / saved_encoder.WEIGHTS)
            about = {"method": self.name, "seed": self.seed, "encoder_sha256": encoder_sha256}
            metrics = about | {"shares": shares, "recipe": asdict(self.recipe), "data_sha256": self.data.sha256}
            files.write_json(self.stage.out(f"out/metrics/{self.file}.json"), metrics)
            groups = {} if self.groups is None else {"group": self.groups}
            arrays = {name: found.numpy().astype(np.int32) for name, found in {"actual": truth, **groups, **guesses}.items()}
            files.save_tensors(self.stage.out(f"out/predictions/{self.file}.safetensors"), arrays)
            named = f"{self.task}/finetune_top1" if self.task else "top1"
            journal.metrics(0, {f"{named}_{100 * float(share):g}pct": own["mean"] for share, own in shares.items()})
            for kind, suffix in (("metrics", "json"), ("predictions", "safetensors")):
                path = Path(f"out/{kind}/{self.file}.{suffix}")
                journal.artifact(path, path.parent.relative_to("out").as_posix())
            cost = {} if self.task else {"finetune_seconds": time.monotonic() - started}
            journal.end("FINISHED", cost=cost, encoder_sha256=encoder_sha256)
            journal.publish(self.stage.out(f"out/journal/{self.file.replace('/', '-')}.jsonl"))

    def _numbers(self, guess: Tensor, truth: Tensor, found: Sequence[tuple[float, Tensor]], draw: Draw) -> dict[str, Any]:
        """What a share of the labels gives; accuracies of the test images."""
        right = top1(guess, truth)
        low, high = interval(guess == truth, self.evaluate.bootstrap, self.seed, self.groups)
        return {
            "labels": len(draw.all),
            "mean": float(right.mean()),
            "std": float(right.std()) if len(right) > 1 else 0.0,
            "interval": [low, high],
            "lr": [rate for rate, _ in found],
        }

    def _tuned(self, draw: Draw, share: str, number: int) -> tuple[float, Tensor]:
        """The rate that ``draw`` chooses, and the classes (M,) of the labelled test images after a training with it."""
        rates = sorted(self.recipe.config.lr)
        named = {rate: f"{share}-{number}-{rate:g}" for rate in rates}
        held = self.labels.train[draw.check]
        tried = {rate: self._predicted(draw.fit, draw.check, "train", rate, name) for rate, name in named.items()}
        rate = best_rate([float(top1(guess, held)) for guess in tried.values()], rates)
        guess = self._predicted(draw.all, self.test, "test", rate, f"{share}-{number}")
        if (guess == NONE).all():
            raise Diverged(f"fine-tuning {self.key} diverged at every rate of finetune.lr; lower them")
        return rate, guess

    def _predicted(self, fit: Tensor, asked: Tensor, split: str, rate: float, name: str) -> Tensor:
        """Classes of the images ``asked`` of a split after a training on ``fit``, remembered under ``name``."""
        path = self.stage.work / "trials" / f"{name}.safetensors"
        guess = _remembered(path, len(asked))
        if guess is None:
            path.parent.mkdir(exist_ok=True)
            guess = self._train(fit, rate, getattr(self.data, f"{split}_images"), asked)
            files.save_tensors(path, {"guess": guess.numpy()})
        self.done += 1
        self.show.update(self.done)
        return guess

    def _train(self, fit: Tensor, rate: float, images: dataset.Array, asked: Tensor) -> Tensor:
        rows = fit.numpy()
        own = self.data.train_images if len(rows) == len(self.data.train_images) else self.data.train_images[rows]
        labels = self.labels.train if own is self.data.train_images else self.labels.train[fit]
        info = replace(self.data.info(labels), mean=tuple(self.facts["mean"]), std=tuple(self.facts["std"]))
        train, precision = replace(self.recipe.train, lr=rate), self.facts["precision"]
        train = replace(train, precision=precision)
        decay, augment = self.recipe.config.layer_decay, self.recipe.augment
        try:
            tuned = finetune(
                self.encoder, own, info, augment, train, decay, self.seed, self.device, lambda position: self._maybe_leave()
            )
        except NonFinite:
            return torch.full((len(asked),), NONE)
        encoder, head = tuned
        side = self.facts["encoder"]["image_size"]
        stored = (torch.from_numpy(np.array(images[part.numpy()])).to(self.device) for part in torch.split(asked, BATCH))
        whole = (normalize(at_side(x, side), info.mean, info.std) for x in stored)
        features = frozen(encoder, whole, precision)[0]
        with torch.no_grad():
            return head(features).argmax(1).cpu()

    def _maybe_leave(self) -> None:
        if self.stage.stop_requested():
            self.stage.leave()
