"""The list of runs as our links show it: best first, with the scores and the data in columns. MLflow's own view has no order.

MLflow keeps a view that somebody shares as a tag of the experiment, under a key that the shared address carries.
"""

import json

from ssl_core.evaluation.scores import SCORES

KEY = "scores"
TAG = f"mlflow.sharedViewState.{KEY}"
QUERY = f"workflowType=machine_learning&viewStateShareKey={KEY}"
"""Of the address of an experiment's runs."""
FIRST = "holdout_linear_top1"
CHOOSES = f"eval/{FIRST}"
"""The metric by which the best is chosen."""
DATA = ("dataset", "data_sha256")
"""Tags that tell the images of a run: beside the scores, and not before them as MLflow's own column, which is wide."""


def _column(score: str) -> str:
    return f"metrics.`eval/{score}`"


def state() -> str:
    """The tag's value."""
    scores = [score.name for score in SCORES if score.headline and score.form != "text"]
    scores.sort(key=lambda name: name != FIRST)
    return json.dumps(
        {
            "orderByKey": _column(FIRST),
            "orderByAsc": False,
            "lifecycleFilter": "Active",
            "selectedColumns": [*map(_column, scores), *(f"tags.`{name}`" for name in DATA)],
            "runsHiddenMode": "FIRST_10_RUNS",
        }
    )
