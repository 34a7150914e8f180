"""Projectors and predictors: the layers of lightly's, which hold the papers' heads."""

import pytest
import torch
from lightly.models.modules import heads
from torch import nn

from ssl_core.parts.heads import mlp

LIGHTLY = [
    (heads.MoCoProjectionHead(6, 5, 4), mlp(6, 5, 4, norm=False)),
    (heads.BYOLProjectionHead(6, 5, 4), mlp(6, 5, 4)),
    (heads.BYOLPredictionHead(4, 5, 4), mlp(4, 5, 4)),
    (heads.SimSiamPredictionHead(4, 3, 4), mlp(4, 3, 4)),
    (heads.SimSiamProjectionHead(6, 5, 4), mlp(6, 5, 5, 4, last_norm="plain")),
    (heads.SwaVProjectionHead(6, 5, 4), mlp(6, 5, 4)),
    (heads.NNCLRProjectionHead(6, 5, 4), mlp(6, 5, 5, 4, last_norm="affine")),
    (heads.NNCLRPredictionHead(4, 5, 4), mlp(4, 5, 4)),
    (heads.BarlowTwinsProjectionHead(6, 5, 4), mlp(6, 5, 5, 4)),
    (heads.VICRegProjectionHead(6, 5, 4, num_layers=2), mlp(6, 5, 4)),
]


@pytest.mark.parametrize(("peer", "ours"), LIGHTLY, ids=[type(peer).__name__ for peer, _ in LIGHTLY])
def test_the_same_weights_give_what_lightlys_head_gives(peer: nn.Module, ours: nn.Module) -> None:
    """The last bias, which Barlow Twins and VICReg leave out here, has no effect on their losses."""
    assert [p.shape for p in ours.parameters()] == [p.shape for p in peer.parameters()]
    with torch.no_grad():
        for a, b in zip(ours.parameters(), peer.parameters(), strict=True):
            a.copy_(b)
    x = torch.randn(7, ours[0].in_features, generator=torch.Generator().manual_seed(0))  # type: ignore[index]
    torch.testing.assert_close(ours(x), peer(x))
