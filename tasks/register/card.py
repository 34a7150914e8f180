"""The model card: what an encoder is, how good, on what, and the code that uses it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_core.catalogue import BASELINES
from tasks.columns import HEADLINES
from tasks.metrics import Metrics
from tasks.register.export import OPSET
from tasks.register.modeling import integers, said
from tasks.runtime.words import counted

FITS = {
    "crop": "the centered square is",
    "pad": "the long side, with black beside the short one, is",
    "stretch": "both sides, whatever their proportion, are",
}
"""What becomes of an image that is no square, by ``data.fit``."""
AS_OF = (
    "*That is how it stood beside the other rows when this card was written. Other encoders and labels may have come since: the"
    " description of this version in MLflow's registry is kept up to date, a downloaded copy is not.*"
)


def model_card(
    name: str,
    facts: Mapping[str, Any],
    metrics: Metrics,
    meta: Mapping[str, Any],
    remarks: Sequence[str] = (),
    tasks: Mapping[str, Metrics] | None = None,
    chose: str | None = None,
    began: bool = True,
) -> str:
    """Markdown: what the encoder is, how good, on what, how to use it, and what it may be used for.

    Args:
        remarks: how it stands beside the baselines.
        tasks: what was found on the images of each task.
        chose: the task whose held-out labels chose; None: the images that it was trained on.
        began: of a baseline, whether a training started from it.
    """
    layer, knn_layer = metrics.layer, metrics.protocol.get("knn_layer", metrics.layer)
    epochs = counted(facts.get("epochs") or 0, "epoch", "epochs")
    dim = metrics.protocol.get("dim", facts.get("dim"))
    rank, watched = metrics.score("effective_rank"), metrics.protocol.get("health_images", 0)
    scores = [
        (f"{score.about}{f', on `{knn_layer}`' if 'knn' in score.name and knn_layer != layer else ''}", value, score.better)
        for score in HEADLINES
        if score.form != "text" and score.name != "effective_rank" and (value := metrics.score(score.name)) is not None
    ] + ([(f"effective rank of the features, on {watched:,} training images", rank, "higher")] if rank else [])
    chosen = metrics.score("holdout_linear_top1") is not None
    has_test = metrics.score("linear_top1") is not None
    tested = "the test split was read once" if has_test else "no labelled test image checks them"
    made, train = facts["encoder"], facts.get("train", {})
    square = FITS[facts.get("fit", "crop")]
    square += f" (trained on tiles of at most {facts['tile']} pixels of larger images)" if "tile" in facts else ""
    on = f" on the test images of the task {chose}" if chose else ""
    lines = [
        f"# {name}",
        "",
        _what(metrics, meta, began),
        *remarks,
        *(["", AS_OF] if remarks else []),
        "",
        f"- **Input**: images (B, {made['channels']}, H, W) of any size, {said(facts)} or floats in 0..1; {square}",
        f"  resized to {_sides(made)} and normalized inside: mean {facts['mean']}, deviation {facts['std']}.",
        f"- **Output**: features (B, {dim}), the pooled output of `{layer}`; other layers: `config.json`.",
        f"  Health of the features of its last layer: {metrics.verdict}.",
        f"- **Encoder**: {made['config']['name']}, {facts.get('parameters', 0):,} parameters, weights sha256"
        f" `{metrics.encoder_sha256}`.",
        *_start(facts.get("start")),
        f"- **Training**: {epochs}, batch {train.get('batch_size')}, precision {facts.get('precision')}.",
        f"- **Data**: {meta['name']}, {meta['num_train']} training images, sha256 `{facts['data_sha256']}`; source:"
        f" {meta.get('source') or 'unknown'}; license: {meta.get('license') or 'unknown'}.",
        "",
        f"Scores{on}, of `{layer}` where nothing else is said:",
        "",
        "| score | value | better |",
        "|---|---|---|",
        *(f"| {about} | {value:.4f} | {better} |" for about, value, better in scores),
        "",
        *_on_tasks(tasks or {}),
        f"Protocol: `{json.dumps(metrics.protocol, sort_keys=True)}`."
        + (f" Choices were made on held-out training labels; {tested}." if chosen else ""),
        "",
        *_usage(made, integers(facts)[0]),
        "## Intended use",
        "",
        "Features for search, clustering, near-duplicate detection and small classifiers on images like those above; a start",
        "for fine-tuning. Scores say nothing about other kinds of images. Not for decisions about people. The license of the",
        "training data applies.",
        "",
    ]
    return "\n".join(lines)


def _what(metrics: Metrics, meta: Mapping[str, Any], began: bool) -> str:
    """The card's first sentence. A baseline is registered where training started from it and gained nothing."""
    if metrics.method in BASELINES and not began:
        title = f"`{metrics.method}`, {BASELINES[metrics.method]}"
        return f"What encoders trained on {meta['name']} without labels were compared with: {title}."
    if metrics.method in BASELINES:
        return (
            f"An image encoder as it was before this training: `{metrics.method}`, which training on {meta['name']} began with."
        )
    return f"An image encoder trained without labels by `{metrics.method}` (seed {metrics.seed}) on {meta['name']}."


def _sides(made: Mapping[str, Any]) -> str:
    """The side of the images, and that at which the network sees them where it is another one."""
    seen = made["config"].get("input_size")
    return f"{made['image_size']}" + (f", by the network to {seen}," if seen and seen != made["image_size"] else "")


def _on_tasks(tasks: Mapping[str, Metrics]) -> list[str]:
    """The card's table of scores on the test images of each task, each of the layer chosen there; none without tasks."""
    if not tasks:
        return []
    head = ["On the test images of further labelled sets:", "", "| task | linear probe | kNN | layer |", "|---|---|---|---|"]
    scores = {task: [found.score(f"{kind}_top1") for kind in ("linear", "knn")] for task, found in tasks.items()}
    cells = {task: " | ".join("–" if value is None else f"{value:.4f}" for value in values) for task, values in scores.items()}
    return [*head, *(f"| {task} | {cells[task]} | `{found.layer}` |" for task, found in tasks.items()), ""]


def _start(start: Mapping[str, str] | None) -> list[str]:
    """The card's line on the weights that the training started from; none where it started at random."""
    if not start:
        return []
    return [f"- **Started from**: {start['source']}, sha256 `{start['sha256']}`; license of these weights: {start['license']}."]


def _usage(made: Mapping[str, Any], kind: str) -> list[str]:
    """The card's code, each part to be pasted as it is; ``kind`` is the type of images of integers."""
    lines = [
        "## Use",
        "",
        "Nothing here unpickles. `modeling.py` is code that needs torch and safetensors: read it, copy it into your project.",
        "",
        "```python",
        "from modeling import load",
        "",
        'encoder = load("FOLDER")                        # a torch module with gradients, .train(), .half() and .to()',
        "features = encoder(images)                      # (B, D)",
        "maps = encoder.maps(images)                     # {'block1': (B, C, h, w), ...}",
        "```",
        "",
        f"With onnxruntime (opset {OPSET}), no code of ours: `encoder.onnx` takes {kind}, and `encoder-float.onnx` float32 in"
        " 0..1.",
        "",
        "```python",
        "import onnxruntime",
        "",
        'features = onnxruntime.InferenceSession("FOLDER/encoder.onnx").run(None, {"images": images})[0]',
        "```",
        "",
    ]
    return [*lines, *_torchvision(made)] if made["config"]["name"].startswith("resnet") else lines


def _torchvision(made: Mapping[str, Any]) -> list[str]:
    """The card's code for a ResNet in torchvision."""
    side, size = made["image_size"], made["config"].get("input_size") or made["image_size"]
    smaller = ", antialias=True" if size < side else ""
    sized = "" if size == side else f', then `torch.nn.functional.interpolate(x, ({size}, {size}), mode="bilinear"{smaller})`'
    norm = "" if made["config"]["norm"] == "batch" else "norm_layer=lambda c: torch.nn.GroupNorm(32, c)"
    return [
        f"In torchvision; `net.eval()(x)` gives the last layer. `x` are images resized to {side}, in 0..1 and normalized by",
        f"the mean and deviation above{sized}:",
        "",
        "```python",
        "import torch",
        "import torchvision",
        "from safetensors.torch import load_file",
        "",
        f"net = torchvision.models.{made['config']['name']}({norm})",
        _stem(made["channels"], size),
        'net.load_state_dict(load_file("FOLDER/model.safetensors"))',
        "```",
        "",
    ]


def _stem(channels: int, size: int) -> str:
    """The line that gives torchvision's ResNet the stem of an encoder for images of ``size``, and no classifier."""
    layers = {"fc": "torch.nn.Identity()"}
    if size <= 36:
        layers = {"maxpool": "torch.nn.Identity()", **layers}
    if size <= 112 or channels != 3:
        window = "3, 1, 1" if size <= 112 else "7, 2, 3"
        layers = {"conv1": f"torch.nn.Conv2d({channels}, 64, {window}, bias=False)", **layers}
    return f"{', '.join(f'net.{name}' for name in layers)} = {', '.join(layers.values())}"
