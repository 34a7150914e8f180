"""An encoder to take away, as a plain ``torch.nn.Module``: images in, features out, trainable like any other.

``ImageEncoder`` needs torch alone: ``source`` writes a copy of it, with the one architecture it wraps, as the ``modeling.py``
of a package. ``load`` reads a package with the code of this project and nothing of the package but numbers: a package may
come from a store that others write to, and its ``modeling.py`` is for people to read and copy, never executed here.
"""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_core.config import typed
from ssl_core.engine import encoders
from ssl_core.engine.encoders import Encoder, EncoderConfig, build, pool
from tasks.runtime import files
from tasks.runtime.errors import IntegrityError

CONFIG, WEIGHTS, SOURCE = "config.json", "model.safetensors", "modeling.py"


class ImageEncoder(nn.Module):
    """Images to the features (B, ``dim``) of one layer of a trained encoder.

    Images are (B, C, H, W) of any size: integers in 0..255, or floats of any width in 0..1. Where the encoder was trained on 16
    bits, wider integers are the values that the files have, in 0..``white``: 4095 of 12 bits. The centered square of the short
    side (of ``fit`` pad the long one, with black beside the image; of stretch all of the image) is resized to ``image_size``,
    antialiased, and normalized. Features have the type of
    the weights, float32 before ``half()`` and the like. Set ``layer`` to have those of another layer; ``maps`` gives all of
    them before pooling.
    """

    def __init__(self, encoder: nn.Module, config: Mapping[str, Any]):
        super().__init__()
        self.encoder, self.layer = encoder, config["layer"]
        self.channels, self.image_size = config["encoder"]["channels"], config["encoder"]["image_size"]
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        self.fit, self.bits = config.get("fit", "crop"), config.get("bits", 8)
        self.white, self.beyond = config.get("white", 2**self.bits - 1), config.get("beyond", "")

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, ``dim``): the mean over the positions of ``maps(images)[layer]``."""
        return pool(self.maps(images)[self.layer]).to(next(self.encoder.parameters()).dtype)

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """The feature maps (B, C_i, h_i, w_i) of every block by name, ``block1`` first."""
        blocks = self.encoder.blocks(self.prepare(images))
        return {f"block{number}": block for number, block in enumerate(blocks, 1)}

    def prepare(self, images: Tensor) -> Tensor:
        """What the network sees: (B, C, ``image_size``, ``image_size``), resized and normalized, in the type of its weights.

        Raises:
            ValueError: another shape, type or range of values than an image has. Ranges are not checked while a graph is
                traced or compiled.
        """
        if not isinstance(images, Tensor):
            raise ValueError(f"images are a {type(images).__name__}; they must be a torch.Tensor")
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise ValueError(f"images have the shape {tuple(images.shape)}; it must be (B, {self.channels}, H, W)")
        if images.layout != torch.strided:
            raise ValueError("images are a sparse tensor; give images.to_dense()")
        if images.dtype == torch.bool or images.is_complex():
            raise ValueError(f"images are {images.dtype}; they must be integers in 0..{self.white} or floats in 0..1")
        if 0 in images.shape[2:]:
            raise ValueError(f"images have the shape {tuple(images.shape)}: they hold no pixel")
        deep = self.bits == 16 and images.element_size() > 1
        white = 1 if images.is_floating_point() else self.white if deep else 255
        if not torch.compiler.is_compiling() and images.numel():
            try:
                low, high = (float(x.detach()) for x in images.float().aminmax())
            except RuntimeError:  # no values: on the device meta, or within torch.vmap
                low, high = 0.0, 0.0
            if not (low >= -1e-3 and high <= white + 1e-3):  # NaN fails too
                why = f"they must be in 0..{white}{'' if white == 1 else self.beyond}"
                raise ValueError(f"images of {images.dtype} hold {low:g} to {high:g}; {why}")
        weights = next(self.encoder.parameters())
        with torch.autocast("cpu" if images.is_meta else images.device.type, enabled=False):
            x = self._resize(images.to(torch.promote_types(torch.float32, weights.dtype)) / white)
            mean, std = (x.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
            return ((x - mean) / std).to(weights.dtype)

    def _resize(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if not torch.compiler.is_compiling() and height == width == self.image_size:
            return x
        if self.fit == "stretch":
            return self._weights(height, height, x) @ x @ self._weights(width, width, x).T
        side = torch.sym_max(height, width) if self.fit == "pad" else torch.sym_min(height, width)
        return self._weights(height, side, x) @ x @ self._weights(width, side, x).T

    def _weights(self, length: int, side: int, x: Tensor) -> Tensor:
        """(``image_size``, length) weights that resize the centered ``side`` of ``length`` pixels: triangles, as Pillow has.

        Where ``side`` reaches beyond the pixels there is black.
        """
        scale = side / self.image_size
        places = torch.arange(self.image_size, device=x.device, dtype=x.dtype)
        centers = (length - side) / 2 + (places + 0.5) * scale
        distance = (torch.arange(length, device=x.device, dtype=x.dtype) + 0.5 - centers[:, None]).abs()
        weights = (1 - distance / torch.sym_max(scale, 1.0)).clamp_min(0)
        if self.fit == "pad":
            weights = weights * ((centers >= 0) & (centers <= length))[:, None]
        return weights / weights.sum(1, keepdim=True).clamp_min(1e-6)


def load(folder: Path) -> tuple[ImageEncoder, dict[str, Any]]:
    """The encoder of a package, in evaluation mode on the CPU, and its ``config.json``. No code of the package is executed.

    Raises:
        IntegrityError: the files are absent, damaged, or not of one encoder.
    """
    config = files.read_json(folder / CONFIG)
    weights = {name: torch.from_numpy(value.copy()) for name, value in files.load_tensors(folder / WEIGHTS).items()}
    try:
        made = config["encoder"]
        network = build(typed(EncoderConfig, made["config"], "encoder"), made["channels"], made["image_size"], seed=0)
        network.load_state_dict(weights)
        encoder = ImageEncoder(network, config).eval()
        with torch.no_grad():
            encoder(torch.zeros(1, encoder.channels, 8, 8))  # the layer, the mean and the deviation fit the network too
        return encoder, config
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise IntegrityError(f"{folder / CONFIG} and {WEIGHTS} do not describe one encoder: {error}") from None


HEAD = '''"""{title}

A plain torch module in one file. Copy it into your project; beside it, or anywhere, the folder with the numbers:

    from modeling import load

    encoder = load("FOLDER")     # that holds config.json and model.safetensors
    features = encoder(images)   # (B, C, H, W): {values} or floats in 0..1
"""

'''
IMPORTS = """import contextlib
import json
import math
import sys
from abc import abstractmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
"""
TAIL = '''
def load(folder) -> ImageEncoder:
    """The trained encoder in ``folder``, in evaluation mode on the CPU."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    network = _network(config["encoder"])
    network.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return ImageEncoder(network, config).eval()


def _network(made) -> Encoder:
    return {network}


if "transformers" in sys.modules:  # where AutoModel.from_pretrained(folder, trust_remote_code=True) asks for it
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.utils import cached_file

    class AutoEncoderConfig(PretrainedConfig):
        model_type = "{model_type}"

    class AutoEncoder(PreTrainedModel):
        """The encoder as a model of transformers: images as above to features of the layer ``config.layer``."""

        config_class, main_input_name = AutoEncoderConfig, "images"

        def __init__(self, config):
            super().__init__(config)
            self.encoder = _network(config.encoder)
            self.post_init()

        @classmethod
        def from_pretrained(cls, name, config, **options):
            """Strictly. What transformers does instead empties buffers that are computed and not stored."""
            where = ("revision", "subfolder", "token", "cache_dir", "local_files_only", "force_download", "proxies")
            if other := options.keys() - {{*where, "trust_remote_code", "adapter_kwargs"}}:
                raise TypeError(f"{{', '.join(other)}}: not for this model; call .to() or .half() of it")
            weights = cached_file(name, "model.safetensors", **{{key: options[key] for key in where if key in options}})
            model = cls(config)
            model.encoder.load_state_dict(load_file(weights))
            return model.eval()

        def save_pretrained(self, folder, **options):
            super().save_pretrained(folder, state_dict=self.encoder.state_dict(), **options)

        def forward(self, images: Tensor) -> Tensor:
            return ImageEncoder(self.encoder, self.config.to_dict())(images)

        def maps(self, images: Tensor) -> dict[str, Tensor]:
            return ImageEncoder(self.encoder, self.config.to_dict()).maps(images)
'''
MADE, SIZES = 'SimpleNamespace(**made["config"])', 'made["channels"], made["image_size"]'
RESNET = (
    ("enlarge", "GroupNorm", "_norm", "Conv3x3", "guard_tiny_inputs", "ResNet"),
    f"ResNet({MADE}, {SIZES})",
)
PIECES: dict[str, tuple[tuple[str, ...], str]] = {
    "small": (("GroupNorm", "_norm", "Conv3x3", "BasicBlock", "SmallResNet"), f'SmallResNet({MADE}, made["channels"])'),
    "resnet18": RESNET,
    "resnet34": RESNET,
    "resnet50": RESNET,
    "vit": (
        ("sincos_positions", "TransformerLayer", "VisionTransformer"),
        f"VisionTransformer({MADE}, {SIZES})",
    ),
    "timm": (
        ("ConfigError", "enlarge", "_made", "_timm_network", "_patch_size", "Timm"),
        f"Timm({MADE}, {SIZES})",
    ),
}
"""What each architecture is made of, in ``ssl_core.engine``, and the call that makes it."""


def integers(about: Mapping[str, Any]) -> tuple[str, int]:
    """The type of images of integers, and its value for white, by what a training or ``config.json`` says."""
    return ("uint16", 2 ** about.get("bit_depth", 16) - 1) if about.get("bits") == 16 else ("uint8", 255)


def said(about: Mapping[str, Any]) -> str:
    """The same in words."""
    _, white = integers(about)
    of_files = f", as files of {about['bit_depth']} bits have them," if 255 < white < 65535 else ""
    return f"integers in 0..{white}{of_files}"


def beyond(about: Mapping[str, Any]) -> str:
    """What to do with integers beyond white, where the files had more bits than a byte."""
    depth = about.get("bit_depth")
    if not depth:
        return ""
    if about.get("bits") == 16:
        return f", the {depth} bits of the files: cut what lies above, or give floats where 1 is white"
    return f": the files had {depth} bits, so give what they hold as floats, divided by {2**depth - 1}"


def source(config: Mapping[str, Any], title: str) -> str:
    """The text of ``modeling.py``: this module's class and the architecture of ``config``, and nothing of this project."""
    names, network = PIECES[config["encoder"]["config"]["name"].split("/")[0]]
    pieces = [Encoder, pool, *(_piece(name) for name in names), ImageEncoder]
    text = "\n\n".join(inspect.getsource(piece) for piece in pieces) + "\n"
    text += TAIL.format(network=network, model_type=config["model_type"])
    text = re.sub(r"self\.drop_path = DropPath.*", "self.drop_path = None", text)  # of the training alone
    text = text.replace(": EncoderConfig", ": SimpleNamespace").replace("Mapping[", "dict[")
    used = [line for line in IMPORTS.splitlines() if not line or re.search(rf"\b{line.split()[-1]}\b", text)]
    return "\n".join([HEAD.format(title=title, values=said(config)) + used[0], *used[1:], "", "", text])


def _piece(name: str) -> Any:
    """What is called so in ``ssl_core.engine``."""
    from ssl_core.engine import timm_encoder  # here: timm takes seconds, and few encoders are its

    return getattr(encoders, name, None) or getattr(timm_encoder, name)
