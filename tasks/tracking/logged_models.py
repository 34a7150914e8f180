"""Encoders as MLflow's own models: what the Models tab lists and ``search_logged_models`` finds, with scores tied to the data.

The registry's versions hold the files; a ``LoggedModel`` holds the numbers, the run it came from and the data set.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.runtime.redaction import redact
from tasks.tracking.records import Record, Row

KIND = "image encoder"
METRICS_PER_BATCH = 1000  # MLflow's own limit
FINGERPRINT = "ssl.fingerprint"
VERSIONS = "mlflow.modelVersions"
"""MLflow's own tag of a logged model: the registered versions of it, which its pages link to."""


def send(client: Any, experiment: str, run: Any, trained: Record, rows: Sequence[Row], data: Mapping[str, Any]) -> None:
    """Send the numbers of an evaluation to the run of its training, tied to its encoder and to the data; twice changes nothing.

    Args:
        data: name and hash of the images that were scored.
    """
    from mlflow.entities import LoggedModelOutput, Metric

    fingerprint = trained.run["fingerprint"]
    found = _found(client, experiment, fingerprint)
    if found:
        model = found[0]
    else:
        tags = {FINGERPRINT: fingerprint, "encoder_sha256": trained.end["encoder_sha256"]} if trained.end else {}
        params = {"method": trained.run["name"], "seed": str(trained.run["seed"])}
        model = client.create_logged_model(experiment, trained.name, run.info.run_id, tags, params, KIND)
    if model.status != "READY":  # it is new, or its sender stopped here
        client.finalize_logged_model(model.model_id, "READY")
    if model.model_id not in {output.model_id for output in (run.outputs.model_outputs if run.outputs else ())}:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, 0)])
    where = {"model_id": model.model_id, "run_id": run.info.run_id}
    if data:
        where |= {"dataset_name": data["name"], "dataset_digest": data["sha256"][:32]}
    metrics = [Metric(name, value, time, step, **where) for time, step, name, value in rows]
    for start in range(0, len(metrics), METRICS_PER_BATCH):
        client.log_batch(run.info.run_id, metrics=metrics[start : start + METRICS_PER_BATCH])


def _found(client: Any, experiment: str, fingerprint: str) -> list[Any]:
    return list(client.search_logged_models([experiment], filter_string=f"tags.`{FINGERPRINT}` = '{fingerprint}'"))


def link(client: Any, experiment: str, fingerprint: str, version: Mapping[str, str]) -> None:
    """Let the Models tab name the registered version, which has the files: ``{"name": ..., "version": ...}``."""
    for model in _found(client, experiment, fingerprint):
        known = json.loads(model.tags.get(VERSIONS, "[]"))
        if version not in known:
            client.set_logged_model_tags(model.model_id, {VERSIONS: json.dumps([*known, version])})


def send_data(client: Any, run_id: str, data: Mapping[str, Any], context: str) -> None:
    """The data set as MLflow's own input of a run, if there is one; the store keeps one per name and digest.

    Args:
        context: what the run does with it: ``training`` or ``evaluation``.
    """
    if not data:
        return
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": redact(str(data.get("source", "data/prepared")))})
    dataset = Dataset(data["name"], data["sha256"][:32], "local", source, profile=json.dumps(data))
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])
