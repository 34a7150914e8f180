"""An encoder to take away: images in, features out, in formats that need none of this project's code.

- ``data/model.pt2`` (torch.export): what MLflow loads; images (B, C, H, W) of any size, uint8 or float in [0, 1], to
  features (B, D). The centered square is resized as ``tasks.prepare.images`` does and normalized inside.
- ``encoder.onnx``: the same for onnxruntime and others; float images in [0, 1] only.
- ``encoder.safetensors``: the bare weights for fine-tuning; a ResNet's names are torchvision's (without ``fc``).
- ``encoder.json``, ``MODEL_CARD.md``: what they are.
"""

import contextlib
import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_core.engine.encoders import Encoder, pool
from tasks.columns import HEADLINES
from tasks.metrics import Metrics
from tasks.runtime import files, saved_encoder
from tasks.runtime.errors import IntegrityError

PROGRAM, ONNX, CARD = "data/model.pt2", "encoder.onnx", "MODEL_CARD.md"
TOLERANCE = 1e-5  # of the largest feature
VERSION = 1  # of this layout; part of what makes a registered version the same


class Portable(nn.Module):
    """Images (B, C, H, W), uint8 in 0..255 or float in 0..1, to the features (B, D) of one block of an encoder."""

    def __init__(self, encoder: Encoder, facts: Mapping[str, Any], layer: str):
        super().__init__()
        made = facts["encoder"]
        self.encoder, self.size = encoder, int(made["image_size"])
        with torch.no_grad():
            blocks = len(encoder.blocks(torch.zeros(1, made["channels"], self.size, self.size)))
        self.layer = layer_index(layer, blocks)
        self.is_last = self.layer == blocks - 1
        self.register_buffer("one", torch.ones(()))
        self.register_buffer("mean", torch.tensor(facts["mean"]).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(facts["std"]).view(-1, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        # What white is follows from the type, in a way a traced graph keeps: 0 - 1 is 255 in uint8 and -1 in float.
        white = ((images[:1, :1, :1, :1] * 0 - 1) * self.one).abs()
        height, width = images.shape[-2:]
        side = torch.sym_min(height, width)
        x = self._matrix(height, side) @ (images * self.one / white) @ self._matrix(width, side).T
        return pool(self.encoder.blocks((x - self.mean) / self.std)[self.layer])

    def _matrix(self, length: int, side: int) -> Tensor:
        """(size, length) weights that resize the centered ``side`` of ``length`` pixels, antialiased as Pillow does."""
        scale = side / self.size
        centers = (length - side) / 2 + (torch.arange(self.size, device=self.one.device) + 0.5) * scale
        distance = (torch.arange(length, device=self.one.device) + 0.5 - centers[:, None]).abs()
        weights = (1 - distance / torch.sym_max(scale, 1.0)).clamp_min(0)
        return weights / weights.sum(1, keepdim=True)


class Exporter:
    """Writes packages. Tracing takes seconds, so encoders of one architecture share a trace and differ in the weights."""

    def __init__(self) -> None:
        self._traces: dict[str, tuple[Any, Any]] = {}

    def write(self, source: Path, layer: str, card: str, target: Path) -> dict[str, Any]:
        """Fill the directory ``target`` with the saved encoder in ``source``; returns its facts.

        Args:
            layer: the block whose pooled output is the features.
            card: text of the model card.

        Raises:
            IntegrityError: ``source`` is damaged, or what was written does not give the same features.
        """
        encoder, facts = saved_encoder.load(source)
        module = Portable(encoder, facts, layer)
        key = json.dumps([facts["encoder"], layer], sort_keys=True)
        with _quiet(), torch.no_grad():
            if key not in self._traces:
                self._traces[key] = _trace(module, facts)
            program, graph = self._traces[key]
            weights = module.state_dict()
            for name, value in program.state_dict.items():
                value.copy_(weights[name])
            (target / PROGRAM).parent.mkdir(parents=True, exist_ok=True)
            torch.export.save(program, target / PROGRAM)
            _save_onnx(graph.clone(), weights, target / ONNX)
        for name in (saved_encoder.WEIGHTS, saved_encoder.FACTS):
            shutil.copyfile(source / name, target / name)
        files.write_text(target / CARD, card)
        check(target, module, facts)
        return facts


def check(package: Path, module: Portable, facts: Mapping[str, Any]) -> None:
    """Load a package's formats and compare their features with ``module``'s, on images of another size and batch.

    Raises:
        IntegrityError: they differ by more than ``TOLERANCE``.
    """
    import onnxruntime

    side = facts["encoder"]["image_size"]
    images = torch.randint(0, 256, (3, facts["encoder"]["channels"], side + 9, side + 5), dtype=torch.uint8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(package / ONNX, options, providers=["CPUExecutionProvider"])
    with _quiet(), torch.no_grad():
        expected = module(images)
        loaded = torch.export.load(package / PROGRAM).module()
        found = {
            "pt2, uint8": loaded(images),
            "pt2, float": loaded(images / 255),
            "onnx": torch.from_numpy(session.run(None, {"images": (images / 255).numpy()})[0]),
        }
    for name, features in found.items():
        error = float((features - expected).abs().max() / expected.abs().max().clamp_min(1.0))
        if not error <= TOLERANCE:
            raise IntegrityError(f"the exported encoder ({name}) differs from the trained one by {error:.1e}; not registered")


def layer_index(layer: str, blocks: int) -> int:
    """Position among ``blocks`` of the layer the evaluation chose; ``block1`` is the first.

    Raises:
        IntegrityError: no such layer.
    """
    number = layer.removeprefix("block")
    if not number.isdigit() or not 1 <= int(number) <= blocks:
        raise IntegrityError(f"the evaluated layer is {layer!r}; this encoder has block1 to block{blocks}; run dvc repro")
    return int(number) - 1


def model_card(name: str, facts: Mapping[str, Any], metrics: Metrics, meta: Mapping[str, Any]) -> str:
    """Markdown: what the encoder is, how good, on what, and what it may be used for."""
    scores = [
        (score, value) for score in HEADLINES if score.form != "text" and (value := metrics.score(score.name)) is not None
    ]
    near = metrics.protocol.get("knn_layer", metrics.layer)
    made, train = facts["encoder"], facts.get("train", {})
    lines = [
        f"# {name}",
        "",
        f"An image encoder trained without labels by `{metrics.method}` (seed {metrics.seed}) on {meta['name']}.",
        "",
        f"- **Input**: images (B, {made['channels']}, H, W), uint8 in 0..255 or float in 0..1, any size; the centered square",
        f"  is resized to {made['image_size']} px and normalized inside. ONNX: float in 0..1.",
        f"- **Output**: features (B, D), the pooled output of `{metrics.layer}`; verdict: {metrics.verdict}.",
        f"- **Encoder**: {made['config']['name']}, {facts.get('parameters', 0):,} parameters, weights sha256"
        f" `{metrics.encoder_sha256}`.",
        f"- **Training**: {facts.get('epochs')} epochs, batch {train.get('batch_size')}, precision {facts.get('precision')}.",
        f"- **Data**: {meta['name']}, {meta['num_train']} training images, sha256 `{facts['data_sha256']}`; source:"
        f" {meta.get('source') or 'unknown'}; license: {meta.get('license') or 'unknown'}.",
        "",
        "| score | value | better |",
        "|---|---|---|",
        *(f"| {score.about} | {value:.4f} | {score.better} |" for score, value in scores),
        "",
        *(
            [f"k nearest neighbors are of the layer `{near}`, the other scores of `{metrics.layer}`.", ""]
            if near != metrics.layer
            else []
        ),
        f"Protocol: `{json.dumps(metrics.protocol, sort_keys=True)}`. Choices were made on held-out training labels;"
        " the test split was read once.",
        "",
        "## Intended use",
        "",
        "Features for search, clustering, near-duplicate detection and small classifiers on images like those above; a start",
        "for fine-tuning. Scores say nothing about other kinds of images. Not for decisions about people. The license of the",
        "training data applies.",
        "",
    ]
    return "\n".join(lines)


def _trace(module: Portable, facts: Mapping[str, Any]) -> tuple[Any, Any]:
    """(exported program, ONNX graph before optimization) of an architecture, free in batch and image size."""
    free = torch.export.Dim.DYNAMIC
    shape = (2, facts["encoder"]["channels"], facts["encoder"]["image_size"] + 7, facts["encoder"]["image_size"] + 3)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # an operator that exists only in torch
    try:
        program = torch.export.export(module, (torch.zeros(shape),), dynamic_shapes={"images": {0: free, 2: free, 3: free}})
        if not module.is_last:  # functional form (a second): blocks after the evaluated one are then dead code and go
            program = program.run_decompositions({})
        # Unoptimized: that would fold the weights, and they are put in later.
        names = {"input_names": ["images"], "output_names": ["features"]}
        graph = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False, **names)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    assert graph is not None
    return program, graph.model


def _save_onnx(graph: Any, weights: Mapping[str, Tensor], path: Path) -> None:
    import onnx_ir
    import onnxscript.optimizer

    for name, value in graph.graph.initializers.items():
        if name in weights:
            value.const_value = onnx_ir.tensor(np.ascontiguousarray(weights[name].numpy()), name=name)
    onnxscript.optimizer.optimize(graph, num_iterations=1, onnx_shape_inference=False)
    onnx_ir.save(graph, path)


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
