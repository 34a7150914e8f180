"""Before a run: the row for what trainings start from comes into params.yaml by itself, and goes when nothing starts there;
weights are tried before anything is computed; and trainings from one alias start from one version of it.
"""

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.config import ConfigError
from tasks import few_labels
from tasks.dvc.graph import PlannedStage
from tasks.runtime import dataset, edited_yaml, files, params
from tasks.runtime.errors import Stop, TrackerDown, UsageError
from tasks.runtime.recipes import refuse_to_tune
from tasks.runtime.start_rows import ROW, check_weights, is_idle, lacking, own, section

if TYPE_CHECKING:
    from ssl_core.engine.encoders import EncoderConfig

MOVED = "the alias that trainings start from names another encoder now"


def check_images(root: Path, chosen: Collection[str]) -> None:
    """Once the images are prepared, and before anything is trained on them: whether the stages that come after can use them.

    Args:
        chosen: names of the stages that are to run.

    Raises:
        DataError: the file of labels that will choose is not of these images.
        ConfigError: they have no labels to fine-tune with.
    """
    if "report" in chosen:
        few_labels.check(root)
    if any(name.startswith("finetune@") for name in chosen):
        data, tasks = dataset.load(root / dataset.PREPARED), params.run_config(params.load(root / params.PARAMS)).tasks
        if not tasks and not dataset.can_tune(data.train_labels, data.train_holdout, data.test_labels):
            raise refuse_to_tune()


def is_wanted(root: Path) -> bool:
    """Whether ``complete`` has anything to change."""
    values = params.load(root / params.PARAMS)
    return bool(lacking(values)) or is_idle(values)


def complete(root: Path) -> list[str]:
    """Add the row ``start`` where a method starts from weights that no row is; returns a line for each change, mostly none.

    Raises:
        UsageError: methods start from several such weights; one row cannot be all of them.
        Stop, ConfigError: there are no such weights, or they do not fit; params.yaml stays as it was.
    """
    if not is_wanted(root):
        return []
    path = root / params.PARAMS
    values = params.load(path)
    names = lacking(values)
    first = own(values, names[0], "encoder") if names else {}
    first.pop("continued", None)

    def change(document: Any) -> None:
        methods = document["run"]["methods"]
        if not document["method"].get(ROW):
            document["method"][ROW] = {}
        row = document["method"][ROW]
        row.setdefault("train", {})["epochs"] = 0
        if ROW in methods and not names:
            methods.remove(ROW)
        elif ROW not in methods:
            methods.append(ROW)
        row.pop("encoder", None)
        if first:
            row["encoder"] = first

    text = edited_yaml.edit(params.text(path), change)
    if left := lacking(params.parse(text, path)):
        raise UsageError(
            f"{names[0]} and {left[0]} start from different weights, and the row {ROW} can only be one of them: give the other"
            " a row of its own (docs/weights.md)"
        )
    if names:
        with contextlib.suppress(TrackerDown):  # the trainings from there say it
            _try(names[0], params.method_params(values, names[0]).encoder, values["data"])
    params.write(text, path)
    if not names:
        return [f"params.yaml: nothing starts from weights any more; the row {ROW} was taken out of run.methods"]
    return [f"params.yaml: the row {ROW} is what {', '.join(names)} starts from; a training that gains nothing is told by it"]


def moved(root: Path, plan: Sequence[PlannedStage]) -> set[str]:
    """The trainings to repeat because an alias that they started from names another encoder by now, and one of its trainings
    is to run, or they are of several: what is compared has one start. An alias that moved makes nothing stale by itself.
    """
    values = params.load(root / params.PARAMS)
    by_alias: dict[str, list[PlannedStage]] = {}
    for stage in plan:
        weights = section(values, stage.parts.method or "", "encoder").get("weights") if _trains(stage) else None
        if isinstance(weights, str) and weights.startswith("models:/") and "@" in weights:
            by_alias.setdefault(weights, []).append(stage)
    again: set[str] = set()
    for uri, stages in by_alias.items():
        with contextlib.suppress(Stop):  # what is wrong there, the training says
            made = {stage.name: _source(root, stage) for stage in stages if not stage.stale}
            if made and (len(made) < len(stages) or len(set(made.values())) > 1):
                from tasks.tracking import packages

                now = packages.current(uri)
                again |= {name for name, source in made.items() if source != now}
    return again


def _trains(stage: PlannedStage) -> bool:
    return stage.parts.group == "pretrain"


def _source(root: Path, stage: PlannedStage) -> str | None:
    """Which version a finished training started from."""
    facts = files.read_json(root / "out/encoders" / f"{stage.parts.method}-{stage.parts.seed}" / "encoder.json")
    return facts.get("start", {}).get("source")


def try_encoders(root: Path, stages: Iterable[PlannedStage]) -> list[str]:
    """Build the encoder of each training that is to run, and put its weights in: what does not fit ends the run now.

    Returns:
        A line for each that cannot be tried because the tracker does not answer. It fails if that is still so at its turn.

    Raises:
        Stop, ConfigError: a network or weights that there are not, or that do not belong together.
    """
    values = params.load(root / params.PARAMS)
    check_weights(values)
    names = [stage.parts.method for stage in stages if stage.stale and _trains(stage)]
    chosen = {name: params.method_params(values, name).encoder for name in dict.fromkeys(filter(None, names))}
    if all(encoder.name == "small" and not encoder.weights for encoder in chosen.values()):
        return []
    found = []
    for name, encoder in chosen.items():
        try:
            _try(name, encoder, values["data"])
        except TrackerDown as down:
            found.append(f"warning: {down}; start it, or take {name} out of run.methods. The others go on.")
    return found


def _try(method: str, encoder: "EncoderConfig", data: Mapping[str, Any]) -> None:
    from ssl_core.engine.encoders import build
    from ssl_core.engine.weights import put
    from tasks.pretrain import weights

    try:
        network = build(encoder, data["channels"], data["image_size"], seed=0)
        together = encoder.weights == "package" and encoder.name == weights.PACKAGED
        start = None if together else weights.find(encoder)
        if start:
            put(network, start.tensors, start.source)
    except (ConfigError, Stop) as error:
        error.args = (f"method {method}: {error}",)
        raise
