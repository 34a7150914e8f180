"""Trained encoders on disk: weights as safetensors, everything needed to rebuild and use them as JSON."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_core.config import typed
from ssl_core.engine.encoders import Encoder, EncoderConfig, build
from tasks.runtime import files
from tasks.runtime.errors import IntegrityError

WEIGHTS, FACTS = "encoder.safetensors", "encoder.json"


def save(directory: Path, encoder: Encoder, facts: dict[str, Any]) -> None:
    """Write weights and facts; ``facts["encoder"]`` must hold what ``ssl_core.engine.encoders.build`` needs."""
    weights = {k: v.detach().cpu().numpy() for k, v in encoder.state_dict().items()}
    files.save_tensors(directory / WEIGHTS, weights)
    files.write_json(directory / FACTS, facts)


def load(directory: Path) -> tuple[Encoder, dict[str, Any]]:
    """The encoder, in evaluation mode on the CPU, and its facts.

    Raises:
        IntegrityError: a file does not match the manifest, or the weights do not fit the description.
    """
    files.verify(directory)
    facts = files.read_json(directory / FACTS)
    try:
        made = facts["encoder"]
        encoder = build(typed(EncoderConfig, made["config"], "encoder"), made["channels"], made["image_size"], seed=0)
        if not isinstance(facts["precision"], str) or not len(facts["mean"]) == len(facts["std"]) == made["channels"]:
            raise ValueError("precision, mean or std")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise IntegrityError(f"{directory / FACTS} does not describe an encoder: {error!r}; {files.MEND}") from None
    weights = {k: torch.from_numpy(np.array(v)) for k, v in files.load_tensors(directory / WEIGHTS).items()}
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise IntegrityError(f"{directory / WEIGHTS} does not fit {directory / FACTS}: {error}") from None
    return encoder.eval(), facts
