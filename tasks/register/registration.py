"""Stage ``register``: put the encoders of the leaderboard into MLflow's model registry.

The alias ``champion`` names the method with the best held-out linear score or, where the data have no labels, the best one on
the few labelled images in ``labels/``; without those it names none. The test split has no say. A collapsed encoder gets no
alias, a baseline is not registered. The stage always looks at the registry, which lies outside the project; when everything is
there it changes nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssl_core.engine.health import health
from ssl_core.evaluation.scores import SCORES
from tasks import starts
from tasks.register.card import model_card
from tasks.register.export import Exporter
from tasks.register.registry import Entry, Registry, package_key
from tasks.results import Result, champion, load_results, ranked, registered_model
from tasks.runtime import dataset, files, saved_encoder
from tasks.runtime.errors import IntegrityError
from tasks.tracking import journal
from tasks.tracking.registered import CHAMPION, Registration
from tasks.tracking.tracker import Tracker
from tasks.verdict import remarks


def entry(root: Path, result: Result, meta: dict[str, Any], results: Sequence[Result] = ()) -> Entry:
    """What to register of one result, which the card sets beside the baselines among ``results``.

    Raises:
        IntegrityError: its journal is missing, or it was evaluated on other weights than are there now.
    """
    log, source, metrics = root / f"out/journal/{result.name}.jsonl", root / f"out/encoders/{result.name}", result.metrics
    if not log.exists():
        raise IntegrityError(f"{log} is missing; run dvc repro -f pretrain@{result.name}")
    weights = files.sha256(source / saved_encoder.WEIGHTS)
    if metrics.encoder_sha256 != weights:
        raise IntegrityError(f"{source} is not the encoder that was evaluated; run dvc repro")
    facts = files.read_json(source / saved_encoder.FACTS)
    delivered = _delivered(root, result.file, facts)
    tags = {
        "method": result.method,
        "seed": result.seed,
        "layer": metrics.layer,
        "encoder_sha256": weights,
        "data_sha256": facts["data_sha256"],
        "dataset": meta["name"],
        "license": meta.get("license"),
        **{f"start_{name}": value for name, value in facts.get("start", {}).items()},
        "standing": starts.standing(result, results),
        "chosen_on": result.task,
        "protocol": json.dumps(metrics.protocol, sort_keys=True),
        **{score.name: result.get(score.name) for score in SCORES},
        **{name: delivered[name] for name in ("dim", "effective_rank", "feature_std")},
    }
    card = model_card(result.name, facts, metrics, meta, delivered, remarks(result, results))
    return Entry(result.name, source, metrics.layer, journal.run_of(log)["fingerprint"], card, tags)


def _delivered(root: Path, name: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Of the features the encoder gives, not of the last block that the training watched: ``dim``, ``images``, health."""
    path = root / f"out/features/{name}.safetensors"
    features = torch.from_numpy(files.load_tensors(path)["train"])[: facts.get("train", {}).get("health_images")]
    found = health(features.float()) if len(features) > 1 else {}
    return {"dim": features.shape[1], "images": len(features)} | {k: found.get(k) for k in ("effective_rank", "feature_std")}


def aliases(results: list[Result]) -> dict[str, str]:
    """Which result each alias names: its best seed for a method, the champion for ``champion``."""
    sound = [r for r in results if not r.is_baseline and not r.is_collapsed]
    best = champion(sound)
    named = {row.method: row.best.name for row in ranked(sound)}
    return named | ({CHAMPION: best.name} if best else {})


@dataclass(frozen=True)
class Registered:
    """What a registration came to."""

    wanted: Registration
    versions: dict[str, int]
    """The number of each encoder's version in this registry, by ``METHOD-SEED``."""
    notes: list[str]
    """What its user should know of other data in the registry, a sentence each."""


def register(root: Path, exporter: Exporter | None = None) -> Registered:
    """Mirror the journals, so that every version has its run, and register; the notes are of the state before."""
    results, _ = load_results(root)
    methods = [r for r in results if not r.is_baseline]
    meta = files.read_json(root / dataset.PREPARED / "meta.json")
    tracker = Tracker(root.resolve())
    tracker.sync()
    entries = [entry(root, r, meta, results) for r in methods]
    wanted = Registration(registered_model(root), {e.name: package_key(e) for e in entries}, aliases(methods))
    registry = Registry(tracker, wanted.model, exporter)
    notes = registry.other_data(files.sha256(root / dataset.PREPARED / files.MANIFEST), meta["name"])
    return Registered(wanted, registry.register(entries, wanted.aliases), notes)
