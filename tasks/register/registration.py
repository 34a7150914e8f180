"""Stage ``register``: put the encoders of the leaderboard into MLflow's model registry.

The alias ``champion`` names the method with the best held-out linear score or, where the data have no labels, the best one on
the few labelled images in ``labels/``, and none without those; or the weights that a training started from where no method is
above them. ``champion-TASK`` is the same by the labels of a task. The test split has no say. A collapsed encoder gets no alias;
no other baseline is registered. While the encoder that is champion has no result, because its training failed, the alias
stays: what broke in a night does not replace what is in use. The stage always looks at the registry, which lies outside the
project; when everything is there it changes nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_core.evaluation.scores import SCORES
from tasks import starts, transfer
from tasks.cautions import verdict_text
from tasks.choice import best_of, candidates, champion, why_none
from tasks.columns import FEW_LABELS, HEALTH, VERDICT
from tasks.conclusions import caution, remarks
from tasks.register.card import model_card
from tasks.register.export import Exporter
from tasks.register.registry import Entry, Registry, package_key
from tasks.results import Result, load_results, load_scores, registered_model
from tasks.runtime import dataset, files, params, saved_encoder
from tasks.runtime.errors import IntegrityError
from tasks.tracking import copies, journal
from tasks.tracking.registered import CHAMPION, Registration, left_alone
from tasks.tracking.tracker import Tracker
from tasks.verdict import judge_one


def entry(
    root: Path,
    result: Result,
    meta: dict[str, Any],
    results: Sequence[Result] = (),
    by_task: Mapping[str, Sequence[Result]] | None = None,
    ranks: Mapping[str, float] | None = None,
) -> Entry:
    """What to register of one result, which the card sets beside the baselines among ``results``.

    Args:
        by_task: scores of the same encoders on the images of each task.
        ranks: the average rank of each method over the tasks.

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
    verdict = judge_one(result, results)
    standing = verdict.standings[result.method]
    tags = {
        copies.EVALUATED: copies.evaluated(root, result.name) or None,
        "method": result.method,
        "seed": result.seed,
        "layer": metrics.layer,
        "encoder_sha256": weights,
        "data_sha256": facts["data_sha256"],
        "dataset": meta["name"],
        "license": meta.get("license"),
        **{f"start_{name}": value for name, value in facts.get("start", {}).items()},
        "standing": starts.WORSE if result.name in standing.below_start else None,
        "over_start": standing.gains.get(result.name),
        "chosen_on": result.task,
        **{score.name: result.get(score.name) for score in SCORES},
        HEALTH: metrics.verdict,
        VERDICT: verdict_text(next(row for row in verdict.rows if row.method == result.method), standing),
        **{name: result.get(name) for name in ("dim", FEW_LABELS.name)},
        transfer.RANK: (ranks or {}).get(result.method),
    }
    tags["protocol"] = json.dumps({k: v for k, v in metrics.protocol.items() if k not in tags}, sort_keys=True)
    tasks = {task: r.metrics for task, scored in (by_task or {}).items() for r in scored if r.name == result.name}
    tags |= {f"{task}.linear_top1": found.score("linear_top1") for task, found in tasks.items()}
    said = remarks(verdict, results)
    for task, scored in (by_task or {}).items():
        said += [f"On {task}: {text}" for r in scored if r.name == result.name and (text := caution(judge_one(r, scored)))]
    began = result.name in {r.name for r in candidates(results)}
    card = model_card(result.name, facts, metrics, meta, said, tasks, result.task, began)
    return Entry(result.name, source, metrics.layer, journal.run_of(log)["fingerprint"], card, tags)


def card(root: Path, name: str) -> str | None:
    """The model card of any encoder of a project, as one in the registry has it; None where it has no scores there.

    Raises:
        IntegrityError: as ``entry``.
    """
    results, _ = load_results(root)
    by_task = {task: found for task, (found, _) in _by_task(root).items()}
    of_it = (entry(root, r, _meta(root), results, by_task, _ranks(root)).card for r in results if r.name == name)
    return next(of_it, None)


def _by_task(root: Path) -> dict[str, tuple[list[Result], list[str]]]:
    """What ``load_scores`` gives of each task."""
    return {task: load_scores(root, task) for task in params.run_config(params.load(root / params.PARAMS)).tasks}


def _meta(root: Path) -> dict[str, Any]:
    return dict(files.read_json(root / dataset.PREPARED / "meta.json"))


def _ranks(root: Path) -> dict[str, float]:
    """The average rank of each method over the tasks."""
    several = transfer.load(root)
    return dict(several.ranks) if several else {}


def aliases(results: Sequence[Result], by_task: Mapping[str, Sequence[Result]] | None = None) -> dict[str, str]:
    """Which result each alias names: its best seed for a method, the champion for ``champion`` and ``champion-TASK``.

    Args:
        by_task: scores of the same encoders on the images of each task.
    """
    taken = candidates(results)
    named = {method: best_of(r for r in taken if r.method == method) for method in dict.fromkeys(r.method for r in taken)}
    named[CHAMPION] = champion(results)
    named |= {f"{CHAMPION}-{task}": champion(scored) for task, scored in (by_task or {}).items()}
    known = {r.name for r in taken}
    return {alias: best.name for alias, best in named.items() if best and best.name in known}


@dataclass(frozen=True)
class Registered:
    """What a registration came to."""

    wanted: Registration
    versions: dict[str, int]
    """The number of each encoder's version in this registry, by ``METHOD-SEED``."""
    notes: list[str]
    """What its user should know of other data in the registry, a sentence each."""
    unnamed: str | None
    """Why no encoder is champion, and which stays that from an earlier run; None if one is."""
    left_out: Mapping[str, str]
    """Encoders that cannot be exported, with the reason."""
    held: Mapping[str, str]
    """By alias: the encoder that it names as before, for that one has no result now."""
    left: Mapping[str, str]
    """By alias: what it names as before, newer results of another copy of the project."""


def register(root: Path, exporter: Exporter | None = None, take: bool = False) -> Registered:
    """Mirror the journals, so that every version has its run, and register; the notes are of the state before.

    Args:
        take: move aliases that name newer results of another copy of the project, too.
    """
    results, missing = load_results(root)
    scored = _by_task(root)
    by_task = {task: found for task, (found, _) in scored.items()}
    meta, ranks = _meta(root), _ranks(root)
    tracker = Tracker(root.resolve())
    tracker.sync()
    entries = [entry(root, r, meta, results, by_task, ranks) for r in candidates(results)]
    named = aliases(results, by_task)
    registry = Registry(tracker, registered_model(root), exporter)
    absent = {CHAMPION: missing, **{f"{CHAMPION}-{task}": lacking for task, (_, lacking) in scored.items()}}
    before = registry.named()
    held = {alias: name for alias, name in before.items() if alias in named and name in absent.get(alias, ())}
    named = {alias: name for alias, name in named.items() if alias not in held}
    notes = registry.other_data(files.sha256(root / dataset.PREPARED / files.MANIFEST), meta["name"])
    left = [
        a for a, name in before.items() if a == name.rpartition("-")[0] and a not in {*named, *held} and name not in missing
    ]
    if left:
        notes.append(f"aliases of encoders that this run has not stay as they are: {', '.join(sorted(left))}")
    stays = f" {before[CHAMPION]}, which an earlier run named, stays." if CHAMPION in before else ""
    unnamed = why_none(results)
    versions = registry.register(entries, named, held, take)
    if registry.left:
        notes.append(left_alone(registry.left))
    left_out = registry.left_out
    wanted = Registration(
        registry.model,
        {e.name: package_key(e) for e in entries if e.name in versions},
        {alias: name for alias, name in named.items() if name in versions},
        sorted(left_out),
    )
    if named.get(CHAMPION) in left_out:
        unnamed = f"{named[CHAMPION]} would be, and cannot be exported."
    return Registered(
        wanted,
        versions,
        notes,
        None if CHAMPION in {*wanted.aliases, *held} else unnamed + stays,
        left_out,
        held,
        registry.left,
    )
