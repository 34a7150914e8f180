"""The stages of dvc.yaml in Prefect's hands: when they start, on which machine, and what Prefect's pages show.

- ``pipeline`` is the flow ``ssl-pipeline`` (make flow). It asks ``tasks.dvc`` for the graph and runs each stage as a task.
- ``machines`` runs trainings and evaluations on other machines.
- ``watch`` starts the pipeline when images arrived.
- ``artifacts`` fills Prefect's pages. ``runs`` closes flow runs whose process was killed.

Flows import ``tasks`` and no science. Nothing imports a flow; prefect.yaml names the flows that are deployed.
"""

from tasks.runtime import settings

settings.apply()  # before the first import of Prefect, which reads its settings then
