"""Stage ``evaluate``: score one encoder by its frozen features, ``python -m tasks.evaluate METHOD SEED``."""

import csv
import io
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_core.augment import normalize, to_unit
from ssl_core.encoders import Encoder, pool
from ssl_core.evaluate import EvaluateConfig, Scores, evaluate
from ssl_core.health import health, verdict
from tasks import dataset, encoders, files, params
from tasks.device import machine, pick_device
from tasks.errors import UsageError
from tasks.journal import Journal
from tasks.progress import Progress
from tasks.stage import Stage, main


@torch.no_grad()
def extract(
    encoder: Encoder, images: dataset.Array, facts: dict[str, Any], layers: int, batch: int, device: torch.device, show: Progress
) -> list[Tensor]:
    """Pooled outputs of the last ``layers`` blocks for every image: [(N, D_l)] float32 on the CPU, one pass, no augmentation."""
    encoder.eval().to(device, memory_format=torch.channels_last)
    bf16 = facts["precision"] == "bf16"
    parts: list[list[Tensor]] = []
    for start in range(0, len(images), batch):
        x = torch.from_numpy(np.array(images[start : start + batch])).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            maps = encoder.blocks(normalize(to_unit(x), facts["mean"], facts["std"]))[-layers:]
        parts.append([pool(m).cpu() for m in maps])
        show.update(min(start + batch, len(images)))
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


class Evaluation:
    """One encoder: its features, its scores, its files."""

    def __init__(self, stage: Stage, name: str, seed: int, device: torch.device):
        self.stage, self.name, self.key = stage, name, f"{name}-{seed}"
        self.directory = Path("out/encoders") / self.key
        self.config: EvaluateConfig = params.evaluate_config(params.load())
        self.data = dataset.load()
        self.encoder, self.facts = encoders.load(self.directory)
        self.device = device
        self.blocks = 1 if self.facts["encoder"]["config"]["name"] == "pixels" else self.config.layers
        self.journal = Journal(stage.work / "journal.jsonl")
        tags = {"dataset": self.data.meta["name"], "data_sha256": self.data.sha256} | {k: str(v) for k, v in stage.machine.items()}
        self.journal.start(
            fingerprint=stage.fingerprint, stage=stage.full_name, name=name, seed=seed, tags=tags, params=vars(self.config)
        )

    def features(self, split: str) -> list[Tensor]:
        """Features of a split, per candidate layer, float16-rounded: what is scored is what is stored."""
        images = getattr(self.data, f"{split}_images")
        if not len(images):
            return []
        show = Progress(f"{self.key}: {split} features", len(images), "images", file=self.stage.work / "progress.json")
        layers = extract(self.encoder, images, self.facts, self.blocks, self.config.batch_size, self.device, show)
        return [x.half().float() for x in layers]

    def run(self) -> None:
        """Extract, score, write."""
        started = time.monotonic()
        train, test = self.features("train"), self.features("test")
        scores = self._score(train, test)
        seconds = time.monotonic() - started
        kept = {"train": train[scores.layer], "test": test[scores.layer] if test else torch.zeros(0, train[scores.layer].shape[1])}
        arrays = {k: v.half().numpy() for k, v in kept.items()}
        files.save_tensors(self.stage.out(f"out/features/{self.key}.safetensors"), arrays)
        metrics = self._metrics(scores, len(train))
        files.write_json(self.stage.out(f"out/metrics/{self.key}.json"), metrics)
        files.write_text(self.stage.out(f"out/predictions/{self.key}.csv"), self._predictions(scores))
        numbers = {k: v for k, v in metrics.items() if isinstance(v, float)} | metrics["health"]
        self.journal.metrics(self.facts["epochs"], numbers)
        self.journal.end("FINISHED", cost={"evaluation_seconds": seconds}, encoder_sha256=metrics["encoder_sha256"])
        self.journal.publish(self.stage.out(f"out/journal/evaluate-{self.key}.jsonl"))

    def _score(self, train: list[Tensor], test: list[Tensor]) -> Scores:
        """By labels where there are any; without, only the label-free indicators of the last layer remain."""
        if not self.data.has_labels:
            return Scores(layer=len(train) - 1)
        labels, held, truth = (
            torch.from_numpy(np.array(a)) for a in (self.data.train_labels, self.data.train_holdout, self.data.test_labels)
        )
        return evaluate(train, labels, held, test, truth, len(self.data.meta["classes"]), self.config)

    def _metrics(self, scores: Scores, layers: int) -> dict[str, Any]:
        facts, manifest = self.facts, files.read_json(dataset.PREPARED / files.MANIFEST)
        values = dict(scores.values)
        if "per_class" in values:
            values["per_class"] = dict(zip(self.data.meta["classes"], values["per_class"], strict=True))
        return values | {
            "method": self.name,
            "seed": facts["seed"],
            "encoder": facts["encoder"]["config"]["name"],
            "layer": f"block-{layers - scores.layer}" if layers > 1 else "output",
            "health": facts["health"],
            "verdict": verdict(facts["health"], facts["random_health"]),
            "encoder_sha256": files.sha256(self.directory / encoders.WEIGHTS),
            "protocol": scores.protocol
            | {
                "features": "frozen, evaluation mode, no augmentation, global average of the layer's output",
                "choices": "k, temperature, lambda and layer on held-out training labels; then all training labels; test read once",
                "epoch": "last",
                "image_size": facts["encoder"]["image_size"],
                "precision": facts["precision"],
                "split_sha256": manifest["files"]["train_holdout.npy"]["sha256"],
                "data_sha256": self.data.sha256,
            },
        }

    def _predictions(self, scores: Scores) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["actual", "predicted"])
        if scores.predictions is not None:
            # DVC's plots page shows these names as they are: no markup.
            names = [c.replace("<", "‹").replace(">", "›") for c in self.data.meta["classes"]]
            truth = self.data.test_labels[self.data.test_labels >= 0]
            writer.writerows([names[a], names[p]] for a, p in zip(truth, scores.predictions.tolist(), strict=True))
        return out.getvalue()


def command(arguments: list[str]) -> None:
    """``METHOD SEED`` from the command line."""
    if len(arguments) != 2 or not arguments[1].isdigit():
        raise UsageError("usage: python -m tasks.evaluate METHOD SEED")
    name, seed = arguments[0], int(arguments[1])
    state: dict[str, torch.device] = {}

    def make() -> Stage:
        torch.set_num_threads(params.method_params(params.load(), name).train.threads)
        state["device"] = pick_device()
        return Stage("evaluate", {"method": name, "seed": str(seed)}, machine(state["device"]))

    main(make, lambda stage: Evaluation(stage, name, seed, state["device"]).run())


if __name__ == "__main__":
    command(sys.argv[1:])
