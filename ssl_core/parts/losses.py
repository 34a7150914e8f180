"""Losses that several methods share: NT-Xent, InfoNCE, negative cosine, cross-view entropy. A method's own is in its file.

All compute in float32 or wider, whatever precision the inputs come in. Each is a mean over this process's rows against the
rows of all processes, so that several processes have the loss and the gradient of one with the whole batch
(``distributed.gather``).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_core.engine import distributed


def wide(x: Tensor) -> Tensor:
    """x at least in float32: half-precision sums and dot products would cost accuracy."""
    return x if x.dtype == torch.float64 else x.float()


def unit(x: Tensor) -> Tensor:
    """Rows of (..., D) scaled to length 1, at least in float32."""
    return F.normalize(wide(x), dim=-1)


def similarities(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T`` of (N, D) and (M, D) in their own precision: the training loop's autocast would round it to bfloat16."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.T


def is_top1(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) 1.0 where the logit of the label (N,) is larger than all others of its row of (N, K), else 0.0; no gradient.

    Ten times as fast on a CPU as comparing with the argmax.
    """
    logits, columns = logits.detach(), labels[:, None]
    others = logits.scatter(1, columns, -torch.inf).amax(1)
    return (logits.gather(1, columns)[:, 0] > others).float()


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Normalized-temperature cross-entropy (SimCLR, arXiv 2002.05709, eq. 1), the mean over all 2B rows.

    Args:
        z1, z2: (B, D) projections of two views, row i of both from image i. The other 2B - 2 rows are the negatives.

    Returns:
        A scalar; ``ln(2B - 1)`` when every projection is the same.
    """
    z1, z2 = unit(z1), unit(z2)
    all1, all2 = distributed.gather(z1), distributed.gather(z2)
    n = len(all1)
    own = torch.arange(n, device=z1.device)[distributed.local_rows(len(z1))]
    rows = torch.cat([own, own + n])  # where this process's 2B rows stand among all 2N
    logits = similarities(torch.cat([z1, z2]), torch.cat([all1, all2])) / temperature
    logits = logits.scatter(1, rows[:, None], -torch.inf)  # nothing is its own negative
    return F.cross_entropy(logits, (rows + n) % (2 * n))


def info_nce(queries: Tensor, keys: Tensor, temperature: float, negatives: Tensor | None = None) -> Tensor:
    """InfoNCE (arXiv 1807.03748, eq. 4; in the form of MoCo, arXiv 1911.05722, eq. 1), the mean over queries.

    Args:
        queries: (B, D).
        keys: (B, D), the positive of each query.
        negatives: (K, D) unit vectors. Without them the keys of the other images in the batch are the negatives.

    Returns:
        A scalar; ``ln(1 + K)`` when all similarities are equal.
    """
    queries, keys = unit(queries), unit(keys)
    if negatives is None:
        everyone = distributed.gather(keys)
        own = torch.arange(len(everyone), device=queries.device)[distributed.local_rows(len(queries))]
        return F.cross_entropy(similarities(queries, everyone) / temperature, own)
    positive = (queries * keys).sum(1, keepdim=True)
    logits = torch.cat([positive, similarities(queries, negatives)], dim=1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Minus the mean cosine between predictions p and targets z, both (B, D); z gets no gradient.

    SimSiam (arXiv 2011.10566, eq. 1); BYOL's squared distance of unit vectors is ``2 + 2 * negative_cosine``.
    """
    return -(unit(p) * unit(z.detach())).sum(1).mean()


def cross_view_entropy(targets: Sequence[Tensor], logits: Sequence[Tensor]) -> Tensor:
    """Cross-entropy of every view against the target of every *other* view, the mean over these pairs and the images.

    The swapped prediction of SwAV (arXiv 2006.09882, eq. 6) and the loss of DINO (arXiv 2104.14294, eq. 3).

    Args:
        targets: distributions (B, K) of the first views.
        logits: (B, K) of all views, in the same order.
    """
    pairs = [F.cross_entropy(s, q) for i, q in enumerate(targets) for j, s in enumerate(logits) if i != j]
    return torch.stack(pairs).mean()
