"""The stages of dvc.yaml in Prefect's hands: when they start, on which machine, and what Prefect's pages show.

- ``pipeline`` is the flow ``ssl-pipeline`` (make flow). It asks ``tasks.dvc`` for the graph and runs each stage as a task.
- ``machines`` runs trainings and evaluations on other machines.
- ``watch`` starts the pipeline when images arrived.
- ``artifacts`` fills Prefect's pages. ``runs`` closes flow runs whose process was killed.

Flows import ``tasks`` and no science. Nothing imports a flow; prefect.yaml names the flows that are deployed.
"""

import contextlib
import importlib
import io
import os
import sys

from pydantic import ValidationError

from tasks.runtime import settings
from tasks.runtime.errors import EnvironmentFault, run


def _import_prefect() -> None:
    """After the settings, which Prefect reads when it is imported; a wrong one of the user is one line.

    Raises:
        EnvironmentFault: Prefect does not take a variable of the environment or a line of its settings file.
    """
    settings.apply()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            importlib.import_module("prefect.main")
    except ValidationError as error:
        first = error.errors()[0]
        given = str(first["input"]).lower()
        names = [name for name, value in os.environ.items() if name.startswith("PREFECT_") and value.lower() == given]
        where = ", ".join(names) or f"Prefect's setting {'.'.join(map(str, first['loc']))}"
        raise EnvironmentFault(f"{where} is {first['input']!r}; Prefect says: {first['msg']}") from None
    sys.stderr.write(said.getvalue())


run(_import_prefect)
