"""A trained encoder in two lines, from any directory.

from tasks.encoder import load

encoder = load("out/encoders/simclr-0")   # or the folder of a package, or "models:/NAME@champion" from the registry

``python -m tasks.encoder out/encoders/pretrained-0 FOLDER`` writes the package for other tools of an encoder that no registry
has: a baseline, or one of many seeds.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tasks import metrics
from tasks.register import modeling
from tasks.register.modeling import ImageEncoder
from tasks.runtime import files, params, saved_encoder
from tasks.runtime.errors import KEPT, IntegrityError, Stop, TrackerDown, UsageError, run


def load(model: str | Path, store: str | None = None) -> ImageEncoder:
    """A torch module in evaluation mode on the CPU: images (B, C, H, W), integers in 0..255 (of 16 bits: its card) or floats in
    0..1, to features.

    Numbers and text alone are read and verified; nothing that is stored is unpickled or executed. A folder needs no registry,
    no network and no MLflow.

    Args:
        model: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or a folder: ``out/encoders/METHOD-SEED`` of a project, which
            gives the layer that its evaluation chose, or a package that was fetched from the registry.
        store: address of MLflow's tracking store; default ``MLFLOW_TRACKING_URI``, else the one of the project.

    Raises:
        UsageError: there is no such model, or it has no network.
        IntegrityError: the files are absent, damaged, or not those that were registered.
        TrackerDown: the store cannot be used now.
    """
    if str(model).startswith("models:/"):
        from tasks.register import registry

        try:
            return registry.load(str(model), store).module
        except TrackerDown as error:
            reason = str(error).replace(KEPT, "")
            raise TrackerDown(
                f"{reason}; a folder needs no server: out/encoders/METHOD-SEED, or a downloaded package"
            ) from None
    folder = Path(model).expanduser()
    if not str(model).strip() or not folder.is_dir():
        raise UsageError(f"{model} is neither a folder nor an address models:/NAME@ALIAS")
    encoder = read(folder)[0]
    need_network(encoder.encoder, folder)
    return encoder


def read(folder: Path) -> tuple[ImageEncoder, Mapping[str, Any]]:
    """The encoder in a folder of either kind, and its ``config.json``."""
    if (folder / saved_encoder.FACTS).exists():
        return _trained(folder)
    if not (folder / modeling.CONFIG).exists():
        raise UsageError(
            f"{folder} is no encoder: give out/encoders/METHOD-SEED of a project, or a folder that was fetched from its"
            " registry (docs/results.md)"
        )
    try:
        if (folder / files.MANIFEST).exists():
            files.verify(folder)
        return modeling.load(folder)
    except IntegrityError as error:
        raise IntegrityError(str(error).replace(files.MEND, "fetch the folder again (docs/results.md)")) from None


def package(source: Path, target: Path) -> None:
    """Write the folder for other tools (docs/other-tools.md) of what a training left in ``source``, as the registry has them.

    Raises:
        UsageError: there is no encoder, or something is at ``target`` already.
        IntegrityError: it is damaged, or its export does not give the same features.
    """
    from tasks.register.export import Exporter

    if not (source / saved_encoder.FACTS).exists():
        raise UsageError(f"{source} is no encoder of a training; give out/encoders/METHOD-SEED")
    if target.exists():
        raise UsageError(f"{target} is there already; give a new folder")
    need_network(saved_encoder.load(source)[0], source)
    source = source.resolve()
    files.write_directory(target, lambda folder: Exporter().write(source, _layer(source), _card(source), folder))


def need_network(encoder: nn.Module, folder: Path) -> None:
    """Refuse the raw pixels.

    Raises:
        UsageError: it is them.
    """
    if not list(encoder.parameters()):
        raise UsageError(f"{folder} has no network: its features are the pixels")


def main() -> None:
    """The command line: write a package."""
    parser = argparse.ArgumentParser(prog="python -m tasks.encoder", description="Write an encoder's folder for other tools.")
    parser.add_argument("encoder", type=Path, help="out/encoders/METHOD-SEED")
    parser.add_argument("folder", type=Path, help="where to write; a new folder")
    options = parser.parse_args()
    package(options.encoder.expanduser(), options.folder.expanduser())
    print(f"written: {options.folder}")


def _card(folder: Path) -> str:
    """The card of the registry where the folder is what its project scored, else what is known without."""
    lines = [f"# The image encoder {folder.name}", "Input and features: `config.json`. How to load it: `modeling.py`."]
    try:
        if card := _scored(folder):
            return card
        lines.append("Its scores are not here: it was not evaluated, or this is of a copy of the folder that its project has.")
    except Stop as error:
        lines.append(f"Its scores could not be read: {error}.")
    start = files.read_json(folder / saved_encoder.FACTS).get("start", {})
    lines += [f"The {key} of the weights that it has, or started from: {value}." for key, value in sorted(start.items())]
    return "\n\n".join(lines) + "\n"


def _scored(folder: Path) -> str | None:
    """The card of an encoder where its project has it; a copy elsewhere may be of other weights than are scored there now."""
    if folder.parts[-3:-1] != ("out", "encoders"):
        return None
    from tasks.register import registration

    root, name = folder.parents[2], folder.name
    has_scores = (root / params.PARAMS).exists() and (root / "out/metrics" / f"{name}.json").exists()
    return registration.card(root, name) if has_scores else None


def _trained(folder: Path) -> tuple[ImageEncoder, Mapping[str, Any]]:
    """What a training wrote, at the layer that its evaluation chose; not evaluated, at its last one."""
    from tasks.register.export import describe

    encoder, facts = saved_encoder.load(folder)
    config = describe(encoder, facts, _layer(folder.resolve()))
    return ImageEncoder(encoder, config).eval(), config


def _layer(folder: Path) -> str:
    """What the registry delivers too: chosen by labels of the pool or, if it has none, of the first task; empty: the last."""
    out, name = folder.parent.parent, f"{folder.name}.json"  # a folder that was copied elsewhere has no scores beside it
    pool = [metrics.load(path)[0] for path in out.glob(f"metrics/{name}")]
    if pool and pool[0].score("holdout_linear_top1") is not None:
        return pool[0].layer
    given = out.parent / params.PARAMS
    tasks = params.run_config(params.load(given)).tasks if (out / "metrics").is_dir() and given.exists() else ()
    first = [metrics.load(path)[0] for task in tasks[:1] for path in out.glob(f"metrics/{task}/{name}")]
    return next((found.layer for found in [*first, *pool]), "")


if __name__ == "__main__":
    run(main)
