"""Outputs of a network that is looked at and not trained."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def frozen(
    module: nn.Module,
    batches: Iterable[Tensor],
    precision: str,
    outputs: Callable[[Tensor], Sequence[Tensor]] | None = None,
) -> list[Tensor]:
    """Run ``module`` in evaluation mode, without gradients; afterwards it is in the mode it was in.

    Args:
        batches: normalized images (B, C, H, W), on the device of ``module``.
        precision: ``bf16`` or ``float32``, that of the training.
        outputs: what to keep of a batch, each (B, D_i). Without it that is what ``module`` returns.

    Returns:
        (N, D_i) float32 for each output, in the order of the images.
    """
    was_training, zoom = module.training, getattr(module, "zoom", 1.0)
    # Of one channel both layouts of an image are the same, and then the weights' layout decides for the network.
    module.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kept: list[list[Tensor]] = []
    # A network that enlarges its images gets fewer at once: memory is as small, and on a CPU half of the time is saved.
    parts = (part for batch in batches for part in torch.split(batch, max(1, round(len(batch) / zoom**2))))
    for x in parts:
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            kept.append([out.float() for out in (outputs(x) if outputs else (module(x),))])
    module.train(was_training)
    return [torch.cat(outs) for outs in zip(*kept, strict=True)]
