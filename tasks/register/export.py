"""An encoder to take away, as a folder that is safe to read: numbers, two graphs and text, nothing that unpickles.

- ``model.safetensors``, ``config.json``, ``modeling.py``: a plain trainable module in the Hugging Face layout
  (``tasks.register.modeling``); a ResNet's weights have torchvision's names.
- ``encoder.onnx``: uint8 images (batch, C, height, width) of any size, or uint16 where the training had 16 bits, to features
  (batch, D), preprocessing inside. ``encoder-float.onnx``: the same for float32 in 0..1, which the type of an ONNX input
  cannot leave open.
- ``MODEL_CARD.md``: what it is, how good, on what.

All describe and give the layer that the evaluation chose.
"""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_core.engine.encoders import VisionTransformer, pool
from tasks.register import modeling
from tasks.register.modeling import ImageEncoder
from tasks.runtime import files, saved_encoder
from tasks.runtime.errors import IntegrityError

ONNX, ONNX_FLOAT = "encoder.onnx", "encoder-float.onnx"
CARD = "MODEL_CARD.md"
OPSET = 18
TOLERANCE = 1e-5  # of the largest feature
VERSION = 5  # of this layout; part of what makes a registered version the same
TRAINING = ("method", "seed", "epochs", "precision", "data_sha256", "train", "method_config", "augment", "parameters")


class Unfaithful(IntegrityError):
    """An encoder whose exported graphs do not give its features: rounding grows in it, as where a training went wrong."""


class Exporter:
    """Writes packages. Tracing takes seconds, so encoders of one architecture share a trace and differ in weights and layer."""

    def __init__(self) -> None:
        self._traces: dict[str, Any] = {}

    def write(self, source: Path, layer: str, card: str, target: Path) -> dict[str, Any]:
        """Fill the directory ``target`` with the saved encoder in ``source``; returns its ``config.json``.

        Args:
            layer: the block whose pooled output is the features.
            card: text of the model card.

        Raises:
            IntegrityError: ``source`` is damaged.
            Unfaithful: what was written does not give the same features.
        """
        encoder, facts = saved_encoder.load(source)
        if isinstance(encoder, VisionTransformer):
            encoder.drop_path = None  # of the training alone
        config = describe(encoder, facts, layer)
        module = ImageEncoder(encoder, config).requires_grad_(False).eval()
        key = json.dumps([config.get(name) for name in ("encoder", "mean", "std", "fit")], sort_keys=True)
        with _quiet(), torch.no_grad():
            if key not in self._traces:
                self._traces[key] = _trace(encoder, config)
            _save_onnx(self._traces[key].clone(), module.state_dict(), config, target)
        weights = {name: value.numpy() for name, value in encoder.state_dict().items()}
        files.save_tensors(target / modeling.WEIGHTS, weights)
        files.write_json(target / modeling.CONFIG, config)
        name = f"{facts['method']}-{facts['seed']}"
        files.write_text(target / modeling.SOURCE, modeling.source(config, f"The image encoder {name}."))
        files.write_text(target / CARD, card)
        check(target, module)
        return config


def describe(encoder: Any, facts: Mapping[str, Any], layer: str = "") -> dict[str, Any]:
    """What ``config.json`` says: network, input, delivered layer (default: the last), its features, and the training."""
    made = facts["encoder"]
    with torch.no_grad():
        blocks = encoder.blocks(torch.zeros(1, made["channels"], made["image_size"], made["image_size"]))
    layer = layer or f"block{len(blocks)}"
    number = layer_index(layer, len(blocks))
    return {
        "model_type": "ssl-pipeline-encoder",
        "architectures": [ImageEncoder.__name__],
        "auto_map": {"AutoConfig": "modeling.AutoEncoderConfig", "AutoModel": "modeling.AutoEncoder"},
        "encoder": {**made, "config": {**made["config"], "drop_path": 0.0}},
        "mean": facts["mean"],
        "std": facts["std"],
        **{
            name: facts[name] for name in ("bit_depth", "bits", "fit", "tile") if name in facts
        },  # where images are not plain ones
        "white": modeling.integers(facts)[1],
        "beyond": modeling.beyond(facts),
        "layer": layer,
        "dim": blocks[number].shape[1],
        "layers": {f"block{i}": block.shape[1] for i, block in enumerate(blocks, 1)},
        "training": {name: facts[name] for name in TRAINING if name in facts},
    }


def check(package: Path, module: ImageEncoder) -> None:
    """Load every format of a package and compare its features with ``module``'s, on several sizes of image and batch.

    Raises:
        Unfaithful: they differ by more than ``TOLERANCE``.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    whole, unit = (
        onnxruntime.InferenceSession(package / name, options, providers=["CPUExecutionProvider"]) for name in (ONNX, ONNX_FLOAT)
    )
    loaded, config = modeling.load(package)
    kind, white = modeling.integers(config)
    side = module.image_size
    for batch, height, width in ((3, side + 9, side + 5), (1, side, side), (2, max(side // 2, 1), side)):
        images = torch.randint(0, white + 1, (batch, module.channels, height, width)).to(getattr(torch, kind))
        with torch.no_grad():
            expected = module(images)
            found = {
                "module": loaded(images),
                ONNX: torch.from_numpy(whole.run(None, {"images": images.numpy()})[0]),
                ONNX_FLOAT: torch.from_numpy(unit.run(None, {"images": (images / white).numpy()})[0]),
            }
        for name, features in found.items():
            error = float((features - expected).abs().max() / expected.abs().max().clamp_min(1.0))
            if not error <= TOLERANCE:
                raise Unfaithful(f"the features of its export ({name}) differ from its own by {error:.1e} of the largest")


def layer_index(layer: str, blocks: int) -> int:
    """Position among ``blocks`` of the layer the evaluation chose; ``block1`` is the first.

    Raises:
        IntegrityError: no such layer.
    """
    number = layer.removeprefix("block")
    if not number.isdigit() or not 1 <= int(number) <= blocks:
        raise IntegrityError(f"the evaluated layer is {layer!r}; this encoder has block1 to block{blocks}; run dvc repro")
    return int(number) - 1


class _EveryLayer(ImageEncoder):
    """The features of all layers, so that encoders of one architecture share a graph, whichever layer they deliver."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(map(pool, self.maps(images).values()))


def _trace(encoder: nn.Module, config: Mapping[str, Any]) -> Any:
    """The ONNX graph of all layers before optimization, for float32 images, free in batch and image size."""
    module = _EveryLayer(encoder, config).requires_grad_(False).eval()
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    example = torch.zeros(2, module.channels, module.image_size + 7, module.image_size + 3)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # an operator that exists only in torch
    try:
        program = torch.export.export(module, (example,), dynamic_shapes={"images": free})
        # Unoptimized: that would fold the weights, and they are put in later.
        names = {"input_names": ["images"], "output_names": list(config["layers"])}
        graph = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False, opset_version=OPSET, **names)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    assert graph is not None
    return graph.model


def _save_onnx(model: Any, weights: Mapping[str, Tensor], config: Mapping[str, Any], target: Path) -> None:
    """Put the weights into a traced graph and write it for both types of images."""
    import onnx_ir
    import onnxscript.optimizer

    for name, value in model.graph.initializers.items():
        if name in weights:
            value.const_value = onnx_ir.tensor(np.ascontiguousarray(weights[name].numpy()), name=name)
    features = model.graph.outputs[list(config["layers"]).index(config["layer"])]
    features.name = "features"
    model.graph.outputs[:] = [features]  # what leads to the others is unused then, and goes
    onnxscript.optimizer.optimize(model, num_iterations=1, onnx_shape_inference=False)
    (images,) = model.graph.inputs
    images.shape = onnx_ir.Shape(["batch", config["encoder"]["channels"], "height", "width"])
    features.shape = onnx_ir.Shape(["batch", config["dim"]])
    facts = {name: json.dumps(config[name]) for name in ("mean", "std", "layers")}
    model.metadata_props.update(facts | {"layer": config["layer"], "image_size": str(config["encoder"]["image_size"])})
    onnx_ir.save(model, target / ONNX_FLOAT)

    kind, most = modeling.integers(config)
    whole = onnx_ir.Input("images", images.shape, onnx_ir.TensorType(onnx_ir.DataType[kind.upper()]))
    cast = onnx_ir.node("Cast", [whole], {"to": onnx_ir.DataType.FLOAT.value})
    white = onnx_ir.node("Constant", [], {"value": onnx_ir.tensor(np.float32(most))})
    unit = onnx_ir.node("Div", [cast.outputs[0], white.outputs[0]])
    images.name = "unit"
    images.replace_all_uses_with(unit.outputs[0])
    model.graph.inputs[0] = whole
    model.graph.insert_before(model.graph[0], [cast, white, unit])
    onnx_ir.save(model, target / ONNX)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' chatter; their failures are exceptions."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
