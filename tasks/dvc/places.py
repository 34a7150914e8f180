"""Whether outputs and DVC's cache can be written where they are to lie, said before any work."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from tasks.dvc.graph import PlannedStage
from tasks.dvc.lock_files import locked
from tasks.runtime.errors import EnvironmentFault, UsageError, explain


def check_places(root: Path, stages: Iterable[PlannedStage]) -> None:
    """Refuse outputs outside of the project, which DVC would refuse after they were made, and a cache that cannot be made.

    Raises:
        UsageError: a folder of outputs, or an output, is a link that leads out of the project.
        EnvironmentFault: DVC's cache cannot be written.
    """
    outs = [out for stage in stages for out in stage.outs]
    for folder in sorted({*(out.parent for out in outs), *filter(Path.is_dir, outs)}):
        if not folder.resolve().is_relative_to(root.resolve()):
            link = next(path for path in (*reversed(folder.parents), folder) if path.is_relative_to(root) and path.is_symlink())
            raise UsageError(
                f"{link.relative_to(root)} is a link that leads out of the project, where DVC keeps no outputs; remove it, and"
                " move the whole project to that disk, or DVC's cache alone: dvc cache dir PATH"
            )
    with locked(root) as repo:
        place = Path(repo.cache.local.path)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise EnvironmentFault(
            f"DVC's cache cannot be written ({explain(error)[1]}); dvc cache dir PATH names another"
        ) from None
