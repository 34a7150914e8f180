"""A project with small untrained encoders, as the stages leave it, and its registration: made once."""

import atexit
import contextlib
import dataclasses
import functools
import os
import shutil
import tempfile
from pathlib import Path

import torch

from ssl_core.engine.encoders import build, description, num_parameters
from tasks.evaluate.evaluation import delivered
from tasks.register.export import Exporter
from tasks.runtime import files, saved_encoder, settings
from tasks.tracking.journal import Journal
from tasks.tracking.registered import REGISTRATION, ask_file
from tests.conftest import ROOT, textured_images
from tests.support.configs import ENCODER
from tests.support.example_results import CLASSES, write_data

# method: (kind of encoder, evaluated layer, held-out linear score, test linear score)
METHODS = {
    "simclr": ("small", "block3", 0.80, 0.70),
    "byol": ("small", "block3", 0.60, 0.90),
    "rotation": ("small", "block3", 0.50, 0.50),
}
LARGE = {"moco": ("resnet18", "block4", 0.40, 0.40), "mae": ("vit", "block1", 0.30, 0.30)}
"""Added where other kinds of networks are needed; tracing one takes seconds."""
exporter = Exporter()
"""Shared by the tests: tracing an architecture takes seconds."""


def write_project(root: Path, methods=METHODS, seeds=(0,)) -> None:
    """params.yaml, data/prepared and everything ``register`` reads."""
    text = (ROOT / "params.yaml").read_text()
    head, tail = text[: text.index("run:")], text[text.index("\ndata:") :]
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(
        f"{head}run:\n  methods: [{', '.join(methods)}]\n  seeds: {list(seeds)}\n  finetune: []\n  tasks: []\n{tail}"
    )
    write_data(root, True, 20, 1, CLASSES)
    for method in methods:
        for seed in seeds:
            write_encoder(root, method, seed)


def write_encoder(root: Path, method: str, seed: int = 0, weights: int = 0, **metrics) -> None:
    """One encoder with its metrics and journal; other ``weights`` make another training."""
    kind, layer, holdout, test = (METHODS | LARGE)[method]
    name, config = f"{method}-{seed}", dataclasses.replace(ENCODER, name=kind, width=4 if kind == "small" else 32)
    encoder = build(config, 1, 28, seed=1 + seed + 10 * weights)
    facts = {
        "method": method,
        "seed": seed,
        "encoder": description(config, 1, 28),
        "dim": encoder.dim,
        "parameters": num_parameters(encoder),
        "mean": [0.4],
        "std": [0.3],
        "epochs": 2,
        "data_sha256": "d" * 64,
        "precision": "float32",
    }
    directory = root / "out/encoders" / name
    files.write_directory(directory, lambda temp: saved_encoder.save(temp, encoder, facts))
    sha256 = files.sha256(directory / saved_encoder.WEIGHTS)
    health = {"feature_std": 0.2, "effective_rank": 9.0, "alignment": 0.4, "uniformity": -2.0}
    images = torch.from_numpy(textured_images(30, 1, 28))
    features = expected(root, name, layer, images).half()
    given = delivered(features.float(), 30)
    scores = {"holdout_linear_top1": holdout, "linear_top1": test, "verdict": "healthy", "health": health} | given.health
    about = {"method": method, "seed": seed, "encoder": kind, "layer": layer, "encoder_sha256": sha256}
    about["protocol"] = {"k": 20} | given.protocol
    about["random_health"] = health
    files.write_json(root / f"out/metrics/{name}.json", about | scores | metrics)
    files.save_tensors(root / f"out/features/{name}.safetensors", {"train": features.numpy()}, {"layer": layer})
    with Journal(root / f"out/journal/{name}.jsonl", position=0) as journal:
        fingerprint = files.sha256(directory / files.MANIFEST)
        journal.start(fingerprint=fingerprint, stage=f"pretrain@{name}", name=method, seed=seed, tags={}, params={})
        journal.end("FINISHED", encoder_sha256=sha256)


def environment(root: Path) -> dict[str, str]:
    """What a command in ``root`` runs with."""
    return settings.DEFAULTS | {"MLFLOW_TRACKING_URI": settings.store_uri(root), "PYTHONPATH": str(ROOT)}


def enter(root: Path, monkeypatch) -> Path:
    """Make ``root`` the current project of this process."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()  # by the number of a run, which the copies of a project share
    for name, value in environment(root).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(root)
    return root


def stored() -> Path:
    """The directory of the champion's files in the current project's store."""
    return stored_folder(Path())


def stored_folder(root: Path) -> Path:
    """The directory of the champion's files in the store of ``root``, found without MLflow."""
    found = ask_file(root.resolve() / "mlruns/mlflow.db", "ssl-example")
    source = next(v.source for v in found.versions.values() if v.number == found.aliases["champion"])
    return Path(source.removeprefix("file://"))


@functools.cache
def registered() -> Path:
    """A registered project; copy it before changing it."""
    from tasks.register.registration import register

    root = Path(tempfile.mkdtemp(prefix="registered-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    write_project(root)
    old = {name: os.environ.get(name) for name in environment(root)}
    os.environ.update(environment(root))
    try:
        with contextlib.chdir(root):
            register(root, exporter).wanted.write(root / REGISTRATION)
    finally:
        for name, value in old.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return root


def expected(root: Path, name: str, layer: str, images: torch.Tensor) -> torch.Tensor:
    """Features (B, D) of uint8 images of the stored size, computed as the evaluation does."""
    from ssl_core.engine.augment import normalize, to_unit
    from ssl_core.engine.encoders import pool

    encoder, facts = saved_encoder.load(root / "out/encoders" / name)
    with torch.no_grad():
        blocks = encoder.blocks(normalize(to_unit(images), facts["mean"], facts["std"]))
    return pool(blocks[int(layer.removeprefix("block")) - 1])
