"""The stages of dvc.yaml in Prefect's hands: when they start, on which machine, and what Prefect's pages show.

- ``pipeline`` is the flow ``ssl-pipeline`` (make flow). It asks ``tasks.dvc`` for the graph and runs each stage as a task.
- ``machines`` runs trainings and evaluations on other machines.
- ``watch`` starts the pipeline when images arrived.
- ``artifacts`` fills Prefect's pages. ``runs`` closes flow runs whose process was killed.

Flows import ``tasks`` and no science. Nothing imports a flow; prefect.yaml names the flows that are deployed.
"""

import tasks  # isort: skip  # noqa: F401  which says it, in a Python without the packages
import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator

from pydantic import ValidationError

from tasks.runtime import settings
from tasks.runtime.errors import EnvironmentFault, run


@contextlib.contextmanager
def _quiet_unless_it_works() -> Iterator[None]:
    """Keep back what is written to stderr; drop it when the block fails. The stream stays: Prefect's logs keep hold of it."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        os.write(2, said.read())


def _import_prefect() -> None:
    """After the settings, which Prefect reads when it is imported; a wrong one of the user is one line.

    Raises:
        EnvironmentFault: Prefect does not take a variable of the environment or a line of its settings file, or a variable
            names certificates that are not there.
    """
    settings.apply()
    settings.check_certificates()
    try:
        with _quiet_unless_it_works():
            importlib.import_module("prefect.main")
    except ValidationError as error:
        first = error.errors()[0]
        given = str(first["input"]).lower()
        names = [name for name, value in os.environ.items() if name.startswith("PREFECT_") and value.lower() == given]
        where = ", ".join(names) or f"Prefect's setting {'.'.join(map(str, first['loc']))}"
        raise EnvironmentFault(f"{where} is {first['input']!r}; Prefect says: {first['msg']}") from None


run(_import_prefect)
