"""16 bits are worth their space: features tell classes whose difference lies below what 8 bits keep."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_core.evaluation.probe import linear_probe
from tasks.evaluate.evaluation import extract
from tests.support.configs import encoder_of
from tests.tasks.prepare.test_prepare import config, run, write

SIDE, COUNT = 16, 60
LEVEL = 257
"""What one of 256 levels is on the scale of 16 bits."""


def picture(vertical: bool, number: int) -> bytes:
    """A 16-bit PNG of one grey level, with stripes of two fifths of a level around it, upright or lying."""
    random = np.random.default_rng(2 * number + vertical)
    stripes = np.where(np.indices((SIDE, SIDE))[int(vertical)] // 2 % 2, 1, -1)
    wide = LEVEL * random.integers(110, 140) + 0.2 * LEVEL * stripes + random.normal(0, 0.05 * LEVEL, (SIDE, SIDE))
    out = BytesIO()
    Image.fromarray(wide.round().clip(0, 65535).astype(np.uint16)).save(out, "PNG")
    return out.getvalue()


def accuracy(tmp_path: Path, folder: Path, bits: int) -> float:
    """Of a linear probe on the features of an untrained encoder."""
    data = run(tmp_path, config(folder, image_size=SIDE, channels=1, bits=bits, bit_depth=16, test_fraction=0.5), f"bits{bits}")
    encoder = encoder_of(1, SIDE, width=16).eval()
    facts = {"mean": data.meta["mean"], "std": data.meta["std"], "precision": "float32", "encoder": {"image_size": SIDE}}
    train, test = (
        extract(encoder, images, facts, 100, torch.device("cpu"))["block2"] for images in (data.train_images, data.test_images)
    )
    labels = torch.from_numpy(np.array(data.train_labels))
    probe = linear_probe(train[None], labels[None], torch.tensor([[1e-5]], dtype=torch.float64), 2, 1)
    return float((probe.predict(test)[0, 0] == torch.from_numpy(np.array(data.test_labels))).double().mean())


@pytest.mark.slow
def test_what_lies_in_the_low_bits_is_told_with_sixteen_and_lost_with_eight(tmp_path: Path) -> None:
    pictures = {f"{name}/{i}.png": picture(name == "up", i) for name in ("up", "flat") for i in range(COUNT)}
    folder = write(tmp_path / "in", pictures)
    low, high = (accuracy(tmp_path, folder, bits) for bits in (8, 16))
    assert high > 0.9 and abs(low - 0.5) < 0.2, (low, high)
