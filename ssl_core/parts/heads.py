"""Projectors and predictors: small MLPs on top of the encoder, thrown away after training."""

import itertools
from typing import Literal

from torch import Tensor, nn


def mlp(
    *widths: int,
    norm: bool = True,
    last_norm: Literal["none", "plain", "affine"] = "none",
    last_relu: bool = False,
    last_bias: bool = True,
) -> nn.Sequential:
    """Linear(-BatchNorm)-ReLU layers through ``widths``; ``mlp(512, 2048, 128)`` has one hidden layer of 2048.

    Args:
        norm: BatchNorm after each hidden Linear (which then has no bias).
        last_norm: BatchNorm after the last Linear: none, without (``plain``) or with scale and shift.
        last_relu: end with a ReLU.
        last_bias: bias of a last Linear without BatchNorm; off where the loss ignores the mean and it would get no gradient.
    """
    layers: list[nn.Module] = []
    pairs = list(itertools.pairwise(widths))
    for i, (d_in, d_out) in enumerate(pairs):
        last = i == len(pairs) - 1
        with_norm = last_norm != "none" if last else norm
        layers.append(nn.Linear(d_in, d_out, bias=not with_norm and (last_bias or not last)))
        if with_norm:
            layers.append(nn.BatchNorm1d(d_out, affine=not last or last_norm == "affine"))
        if not last or last_relu:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def held(parameter: Tensor, hold: bool) -> Tensor:
    """The parameter; while ``hold``, a copy that passes on a gradient of zero.

    It is not None, because DistributedDataParallel waits for a gradient of every parameter.
    """
    return parameter.detach() + 0.0 * parameter if hold else parameter
