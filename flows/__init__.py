"""The stages of dvc.yaml in Prefect's hands: when they start, on which machine, and what Prefect's pages show.

- ``pipeline`` is the flow ``ssl-pipeline`` (make flow). It asks ``tasks.dvc`` for the graph and runs each stage as a task.
- ``machines`` runs trainings and evaluations on other machines.
- ``watch`` starts the pipeline when images arrived.
- ``artifacts`` fills Prefect's pages. ``runs`` closes flow runs whose process was killed.

Flows import ``tasks`` and no science. Nothing imports a flow; prefect.yaml names the flows that are deployed.
"""

import importlib

from tasks.runtime import settings
from tasks.runtime.errors import run


def _import_prefect() -> None:
    """After the settings, which Prefect reads when it is imported; a wrong one of the user is one line."""
    settings.apply()
    importlib.import_module("prefect.main")


run(_import_prefect)
