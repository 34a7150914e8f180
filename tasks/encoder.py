"""A trained encoder in two lines, from the project's root or wherever this project is installed.

from tasks.encoder import load

encoder = load("models:/NAME@champion")   # or load("FOLDER"), of a downloaded package: no registry, no network
"""

from pathlib import Path

from tasks.register import modeling, registry
from tasks.register.modeling import ImageEncoder
from tasks.runtime import files


def load(model: str | Path, store: str | None = None) -> ImageEncoder:
    """A torch module in evaluation mode on the CPU: images (B, C, H, W), integers in 0..255 or floats in 0..1, to features.

    Numbers and text alone are read and verified; nothing that is stored is unpickled or executed.

    Args:
        model: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or the folder of a package.
        store: address of MLflow's tracking store; default ``MLFLOW_TRACKING_URI``, else the one of the project.

    Raises:
        UsageError: there is no such model.
        IntegrityError: the files are absent, damaged, or not those that were registered.
        TrackerDown: the store cannot be used now.
    """
    if str(model).startswith("models:/"):
        return registry.load(str(model), store).module
    if (Path(model) / files.MANIFEST).exists():
        files.verify(Path(model))
    return modeling.load(Path(model))[0]
