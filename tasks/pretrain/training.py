"""Stage ``pretrain``: train one method (or baseline) on the prepared images and write its encoder.

``python -m tasks.pretrain METHOD SEED``. Killed or interrupted, the same command continues from its last checkpoint and
ends with the same bits. With ``train.processes`` above 1 the command starts that many processes, which share each batch;
``torchrun -m tasks.pretrain METHOD SEED`` starts them by hand, also on several machines.
"""

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_core.catalogue import LABELLED, load_class
from ssl_core.engine import distributed
from ssl_core.engine import encoders as core_encoders
from ssl_core.engine.continued import freeze
from ssl_core.engine.data import Images
from ssl_core.engine.health import judge
from ssl_core.engine.method import Method
from ssl_core.engine.train import Position, Trainer
from ssl_core.engine.weights import put
from tasks.pretrain import fitting
from tasks.pretrain.sheet import view_sheet
from tasks.pretrain.weights import Start
from tasks.runtime import checkpoint, dataset, files, hang, params, saved_encoder, settings
from tasks.runtime.errors import Diverged
from tasks.runtime.progress import Progress
from tasks.runtime.stage import Stage
from tasks.runtime.words import counted
from tasks.tracking.journal import Journal

CHECKPOINT_SECONDS = 60.0  # at most this much work is lost by a crash
FEW_STEPS = 150  # of a training that teaches an encoder little


def make_method(chosen: params.MethodParams, data: dataset.Dataset, seed: int, start: Start | None = None) -> Method:
    """The method before its training: a function of the parameters, the seed and the weights it starts from alone."""
    meta = data.meta
    encoder = core_encoders.build(chosen.encoder, meta["channels"], meta["image_size"], seed)
    info = data.info(torch.from_numpy(data.train_labels.copy()) if chosen.name in LABELLED else None)
    if start:
        loading = put(encoder, start.tensors, start.source)
        if distributed.rank() == 0:
            print(f"{chosen.name} starts from {start.source}: {loading}", file=sys.stderr)
        mean, std = start.preprocessing(meta["channels"]) or (info.mean, info.std)
        info = replace(info, mean=mean, std=std)
        if chosen.train.trains:
            freeze(encoder, chosen.continued, meta["channels"], meta["image_size"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        method = load_class(chosen.name)(encoder, chosen.config, chosen.augment, info)
    if start and chosen.train.trains and chosen.continued.average:
        method.keep_average(chosen.continued.average)
    return method


def make_trainer(
    chosen: params.MethodParams, data: dataset.Dataset, seed: int, device: torch.device, start: Start | None = None
) -> Trainer:
    """The trainer before its first step: ``make_method`` on the training images of ``data`` that it learns from."""
    from_labels = chosen.name in LABELLED
    epochs = 0 if from_labels and not data.has_labels else None
    images = Images(data.train_images, device, dataset.at_random(data.train_images))
    labels, groups, rows = (
        None if values is None else torch.from_numpy(values.copy())
        for values in (data.train_labels, data.train_groups, data.learned_from(from_labels))
    )
    return Trainer(make_method(chosen, data, seed, start), images, chosen.train, seed, epochs, labels, groups, rows)


class Training:
    """One run: the trainer, and what is written while it goes."""

    def __init__(self, stage: Stage, name: str, seed: int, device: torch.device, start: Start | None = None):
        self.stage, self.name, self.seed, self.device, self.start = stage, name, seed, device, start
        self.leads = distributed.rank() == 0
        self.values, self.data = params.load(), dataset.load()
        asked = params.method_params(self.values, name)
        self.params = fitting.fit_to(asked, self.data)
        self.lowered = fitting.in_words(fitting.lowered(asked, self.params)) if asked.train.trains else ""
        self.checkpoints = stage.work / "checkpoints"
        self.seconds = 0.0
        self.times: list[int] = []
        self._begin_journal(self.rewind())
        tensors = self.trainer.tensors()  # of all processes together
        if self.leads and self.params.train.trains:
            checkpoint.check_space(self.checkpoints, tensors)
        self.started = self.saved = time.monotonic()
        label = f"{name} (seed {seed}) on {device.type}"
        per_step = self.params.train.batch_size
        self.display = Progress(label, self.trainer.steps, "images", per_step, stage.work / "progress.json", self.trainer.step)

    def rewind(self) -> dict[str, Any] | None:
        """Make the trainer, as the newest checkpoint has it; returns the checkpoint's scalars, None if there is none."""
        self.trainer = make_trainer(self.params, self.data, self.seed, self.device, self.start)
        needed = {f"method.{name}": value for name, value in self.method.state_dict().items()}
        found = checkpoint.shared(checkpoint.load(self.checkpoints, needed) if self.leads else None)
        if found is None:
            return None
        self.trainer.load(*found)
        return found[1]

    @property
    def method(self) -> Method:
        """What is trained."""
        return self.trainer.method

    def _begin_journal(self, resumed: dict[str, Any] | None) -> None:
        if resumed is not None:
            self.seconds = resumed["seconds"]
        if not self.leads:
            return
        if resumed is not None:
            print(f"{self.name}: continuing from step {self.trainer.step} of {self.trainer.steps}", file=sys.stderr)
        self.journal = Journal(self.stage.work / "journal.jsonl", position=resumed and resumed["journal"])
        if resumed is None:
            self.journal.start(**self._run_facts())
            if self.lowered:
                print(f"{self.name}: {self.trainer.num_trained:,} training images are few: {self.lowered}", file=sys.stderr)
            self._warn_if_short()

    def _run_facts(self) -> dict[str, Any]:
        meta, p = self.data.meta, self.params
        return {
            "fingerprint": self.stage.fingerprint,
            "stage": self.stage.full_name,
            "name": self.name,
            "seed": self.seed,
            "tags": {
                "dataset": meta["name"],
                "data_sha256": self.data.sha256,
                "precision": self.trainer.precision,
                **{k: str(v) for k, v in self.stage.machine.items()},
                **({f"start_{k}": v for k, v in self.start.facts().items()} if self.start else {}),
            },
            "data": {
                "sha256": self.data.sha256,
                **{k: meta[k] for k in ("name", "source", "license", "num_train", "num_test")},
            },
            "params": {
                "encoder": vars(p.encoder) | ({"continued": vars(p.continued)} if self.start else {}),
                "train": vars(p.train),
                "augment": vars(p.augment),
                "method": asdict(p.config),
            },
        }

    def train(self) -> None:
        """Train to the end, or until something ends it."""
        with hang.watch(self.stage) as self.alive:
            self.trainer.run(self.on_step, self.on_epoch)

    # ------------------------------------------------------------------ callbacks of the loop

    def on_step(self, position: Position) -> None:
        """Show, save from time to time, and leave when asked to; several processes do so at the same step."""
        self.alive()
        if self.leads:
            self.display.update(position.step, f"epoch {position.epoch + 1}/{position.epochs}")
        interval = settings.seconds("SSL_CHECKPOINT_SECONDS", CHECKPOINT_SECONDS)
        due = self.leads and time.monotonic() - self.saved >= interval
        stop, due = distributed.any_of(self.stage.stop_requested() and position.step < position.steps, due)
        if stop or due:
            self.save()
        if stop:
            self.stage.leave()

    def on_epoch(self, row: dict[str, float]) -> None:
        """Journal the epoch, pass on the method's alarms, judge the health of the encoder against its untrained state."""
        if self.leads:
            self.journal.metrics(int(row["epoch"]), {k: v for k, v in row.items() if k not in ("epoch", "step")})
            self._warn(row)
        state = judge(row, self.trainer.history[0])
        if self.leads and state == "collapsed" and row["epoch"] > 0:
            print(f"warning: {self.name} has collapsed at epoch {row['epoch']:.0f} (see the health plots)", file=sys.stderr)
            if self.params.train.stop_on_collapse:
                raise Diverged(f"{self.name} collapsed at epoch {row['epoch']:.0f}: its features are all alike; lower train.lr")

    def _warn_if_short(self) -> None:
        """Say so before a training that is too short to teach an encoder much."""
        if 0 < self.trainer.steps < FEW_STEPS and not self.params.encoder.weights:
            train = self.params.train
            budget = "train.images" if train.epochs is None else "train.epochs"
            print(
                f"warning: {self.name} gets only {counted(self.trainer.steps, 'optimizer step', 'optimizer steps')}"
                f" of {train.batch_size} images, "
                f"and from a random start an encoder that is worth using takes 1,500 or more: raise {budget}",
                file=sys.stderr,
            )

    def _warn(self, row: dict[str, float]) -> None:
        """Say once in a training what an alarm of the method means."""
        known = {alarm for earlier in self.trainer.history[:-1] for alarm in self.method.raised(earlier)}
        for alarm, text in self.method.raised(row).items():
            if alarm not in known:
                print(f"warning: {self.name} at epoch {row['epoch']:.0f}: {text}", file=sys.stderr)
                self.journal.tags({f"warning.{alarm}": text})

    def save(self) -> None:
        """Write a checkpoint; all processes take part."""
        tensors = self.trainer.tensors()
        if self.leads:
            scalars = self.trainer.scalars() | {"seconds": self.elapsed(), "journal": self.journal.position}
            checkpoint.save(self.checkpoints, self.trainer.step, tensors, scalars)
        self.saved = time.monotonic()

    def elapsed(self) -> float:
        """Seconds of training, over all the times it was started."""
        return self.seconds + time.monotonic() - self.started

    # ------------------------------------------------------------------ the result

    def finish(self) -> None:
        """Write the outputs."""
        key = f"{self.name}-{self.seed}"
        directory = self.stage.out(f"out/encoders/{key}")
        directory.mkdir(exist_ok=True)
        saved_encoder.save(directory, self.method.exported, self._facts())
        sheet = view_sheet(self.method, self.trainer.images)
        files.write_bytes(directory / "views.png", sheet)
        files.seal(directory)
        self.journal.artifact(Path(f"out/encoders/{key}/views.png"))
        files.write_text(self.stage.out(f"out/history/{key}.csv"), history_csv(self.trainer.history))
        self.journal.end("FINISHED", cost=self._cost(), encoder_sha256=files.sha256(directory / saved_encoder.WEIGHTS))
        self.journal.publish(self.stage.out(f"out/journal/{key}.jsonl"))

    def _facts(self) -> dict[str, Any]:
        p, meta = self.params, self.data.meta
        described = core_encoders.description(p.encoder, meta["channels"], meta["image_size"])
        # Another budget leaves an encoder that is not trained, and with it its evaluation, as they were.
        no_budget = {} if p.train.trains else {"images": 1, "epoch_share": 1.0}
        return {
            "method": self.name,
            "seed": self.seed,
            "encoder": described,
            "dim": self.method.exported.dim,
            "parameters": core_encoders.num_parameters(self.method.exported),
            "mean": list(self.method.data.mean),
            "std": list(self.method.data.std),
            **{key: meta[key] for key in ("bit_depth", "bits", "fit", "tile") if key in meta},
            **({"start": self.start.facts()} if self.start else {}),
            **({"few_images": self.lowered} if self.lowered else {}),
            "epochs": self.trainer.epochs,
            "steps_per_epoch": self.trainer.steps_per_epoch,
            "train": vars(p.train) | no_budget,
            "augment": vars(p.augment),
            "method_config": asdict(p.config),
            "data_sha256": self.data.sha256,
            "precision": self.trainer.precision,
            "knn_rise": knn_rise(self.trainer.history),
            "watched": int((self.data.train_labels[self.trainer.watched().cpu().numpy()] >= 0).sum()),
            "health": self.trainer.history[-1],
            "random_health": self.trainer.history[0],
            "warnings": list(self.method.raised(self.trainer.history[-1]).values()),
        }

    def _cost(self) -> dict[str, float]:
        seen = self.trainer.step * self.params.train.batch_size
        seconds = self.elapsed()
        return {
            "seconds": seconds,
            "images_per_second": seen / seconds if seen else 0.0,
            "peak_memory_bytes": peak_memory(self.trainer.device),
            "parameters": core_encoders.num_parameters(self.method.exported),
        }


def knn_rise(history: Sequence[Mapping[str, float]]) -> float | None:
    """By how much kNN on the watched images rose over the last doubling of the epochs; None where it was not watched, or after
    less than two epochs. A row of the history may stand for several epochs."""
    watched = [(row["epoch"], row["knn"]) for row in history if "knn" in row]
    if not watched or watched[0][0] > 0 or watched[-1][0] < 2:
        return None
    return float(watched[-1][1] - np.interp(watched[-1][0] // 2, *zip(*watched, strict=True)))


def peak_memory(device: torch.device) -> int:
    """Largest memory in use so far, in bytes: of the GPU, or of this process on a CPU.

    That is without the pages of files, libraries and images, that are mapped into it now. Processes share them, and the system
    takes them back when it needs them.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    status = Path("/proc/self/status")
    mapped = re.search(r"RssFile:\s+(\d+) kB", status.read_text(encoding="utf-8")) if status.exists() else None
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - (int(mapped[1]) if mapped else 0)) * 1024


def history_csv(rows: list[dict[str, float]]) -> str:
    """One line per epoch; a column of every logged number, ``nan`` (a gap in a plot) where it was not measured."""
    first = ["epoch", "step", "loss"]
    columns = first + sorted({k for row in rows for k in row} - set(first))
    lines = [",".join(columns)]
    lines += [",".join(f"{row[c]:.6g}" if c in row else "nan" for c in columns) for row in rows]
    return "\n".join(lines) + "\n"
