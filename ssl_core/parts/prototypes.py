"""Clusters as classes: how concentrated they are, and the contrast with their centroids (PCL, arXiv 2005.04966)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_core.clustering import cluster_means
from ssl_core.parts.losses import similarities


def concentration(x: Tensor, centroids: Tensor, assignment: Tensor, smoothing: float) -> Tensor:
    """phi (K,) before it is scaled, of vectors x (N, D), centroids (K, D) and assignment (N,)."""
    distance = (x - centroids[assignment]).norm(dim=1, keepdim=True)
    mean, count = cluster_means(distance, assignment, len(centroids))
    phi = mean[:, 0] / torch.log(count + smoothing)
    return torch.where(count > 1, phi, phi.max())


def scaled(phi: Tensor, temperature: float) -> Tensor:
    """phi (K,) clipped to its 10th to 90th percentiles and scaled to mean ``temperature``."""
    phi = phi.clamp(torch.quantile(phi, 0.1), torch.quantile(phi, 0.9))
    phi = torch.where(phi.mean() > 0, phi * (temperature / phi.mean()), temperature)  # all members equal: nothing to scale by
    return phi.clamp(min=0.01 * temperature)  # a cluster of duplicates would divide by 0


def proto_nce(q: Tensor, prototypes: Tensor, phi: Tensor, own: Tensor) -> Tensor:
    """Cross-entropy of unit queries (B, D) against unit prototypes (K, D) with temperatures phi (K,) and clusters own (B,)."""
    return F.cross_entropy(similarities(q, prototypes) / phi, own)
