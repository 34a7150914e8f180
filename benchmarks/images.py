"""Images to measure on: synthetic ones, as an array or as a folder of JPEG files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F


def synthetic(count: int, size: int, seed: int = 0) -> np.ndarray:
    """(count, 3, size, size) uint8: smooth color plus a little noise, so that a JPEG is about as large as a photo's."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    x = F.interpolate(coarse, (size, size), mode="bicubic") + 0.05 * torch.randn(count, 3, size, size, generator=generator)
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def pictures(array: np.ndarray) -> list[Image.Image]:
    """Pillow images of (N, 3, H, W) uint8."""
    return [Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))) for image in array]


def write_jpegs(folder: Path, count: int, size: int) -> None:
    """``folder/train/<class>/*.jpg``, ten classes."""
    for number, picture in enumerate(pictures(synthetic(count, size))):
        path = folder / "train" / f"class{number % 10}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)
