"""Encoders as ``pretrain`` leaves them."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_core.engine import encoders as core_encoders
from tasks.runtime import files, params, saved_encoder
from tests.conftest import ROOT
from tests.support.configs import ENCODER
from tests.support.project import TINY, set_params, write_prepared

HEALTH = {"feature_std": 0.1, "effective_rank": 9.0, "alignment": 0.3, "uniformity": -2.0}


def write_encoder(project: Path, method: str, name: str = "small", poison: bool = False, **facts: object) -> None:
    """An untrained encoder as ``pretrain`` would leave it."""
    config = dataclasses.replace(ENCODER, name=name, width=8)
    encoder = core_encoders.build(config, 1, 16, 3)
    if poison:
        with torch.no_grad():
            next(encoder.parameters()).fill_(torch.nan)
    chosen = params.method_params(params.load(), "simclr")
    described = {
        "method": method,
        "seed": 0,
        "encoder": core_encoders.description(config, 1, 16),
        "dim": encoder.dim,
        "mean": [0.5],
        "std": [0.2],
        "epochs": 3,
        "precision": "float32",
        "train": vars(chosen.train),
        "augment": vars(chosen.augment),
        "health": HEALTH | {"epoch": 3, "loss": 1.0},
        "random_health": HEALTH | {"epoch": 0},
    }
    files.write_directory(
        project / f"out/encoders/{method}-0", lambda directory: saved_encoder.save(directory, encoder, described | facts)
    )


def project_with_encoder(target: Path, monkeypatch: pytest.MonkeyPatch, values: Mapping[str, Any]) -> Path:
    """What a stage in this process needs: the code, prepared data and one encoder, in ``target``, which is entered."""
    for part in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / part, target / part)
    for part in ("ssl_core", "tasks"):
        (target / part).symlink_to(ROOT / part)
    set_params(target, TINY | values)
    monkeypatch.chdir(target)
    write_prepared(target)
    write_encoder(target, "simclr")
    return target
