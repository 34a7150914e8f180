"""Published recipes of the other methods: memory banks, clusters, a Gaussian, rotations, masks (see published.py)."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from lightly.loss import SIGReg
from lightly.loss.lejepa_loss import lejepa_invariance_loss
from lightly.models.modules import heads
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_core.engine.method import Batch
from ssl_core.engine.transformer import sincos_positions
from tests.support.published import (
    B,
    Parts,
    Recipe,
    against_queue,
    clipped,
    cosine,
    follow,
    keys,
    sgd,
    split,
    trained,
)


def npid(start: Any) -> Recipe:
    """The authors' cifar.py with the full softmax: 0.03 at batch 128, a tenth at 120 and at 160 of 200 epochs."""
    parts: Parts = {"encoder": start.encoder, "projector": nn.Sequential(nn.Linear(64, 128))}
    network, bank = nn.Sequential(*parts.values()), start.bank.vectors.clone()  # type: ignore[arg-type]

    def loss(batch: Batch) -> Tensor:
        v = F.normalize(network(batch.views[0]))
        out = F.cross_entropy(v @ bank.T.clone() / 0.1, batch.ids)
        bank[batch.ids] = F.normalize(0.5 * bank[batch.ids] + 0.5 * v.detach())
        return out

    return Recipe(parts, sgd(parts, 0.03 * B / 128), loss, lambda p: 0.1 ** ((p >= 0.6) + (p >= 0.8)))


def pirl(start: Any) -> Recipe:
    """Equations 4 and 5 of the paper, with all other images as negatives; vissl's rate and cosine to a thousandth."""
    tile, tiles = nn.Linear(64, 128), nn.Sequential(nn.Linear(4 * 128, 128))
    image = nn.Sequential(nn.Linear(64, 128))
    parts: Parts = {"encoder": start.encoder, "image_head": image, "tile_head": tile, "tiles_head": tiles}
    bank = start.bank.vectors.clone()

    def nce(v: Tensor, ids: Tensor) -> Tensor:
        h = torch.softmax(v @ bank.T.clone() / 0.07, dim=1)
        own = F.one_hot(ids, len(bank)).bool()
        return (-h[own].log() - torch.log1p(-h.masked_fill(own, 0.0).clamp(max=1 - 1e-6)).sum(1)).mean()

    def loss(batch: Batch) -> Tensor:
        x, cut = batch.views
        v = F.normalize(image(start.encoder(x)))
        each = tile(start.encoder(cut.flatten(0, 1))).reshape(B, -1)
        out = 0.5 * nce(F.normalize(tiles(each)), batch.ids) + 0.5 * nce(v, batch.ids)
        bank[batch.ids] = F.normalize(0.5 * bank[batch.ids] + 0.5 * v.detach())
        return out

    return Recipe(parts, sgd(parts, 0.03 * B / 256), loss, lambda p: cosine(p, 0.0, 0.001))


def pcl(start: Any) -> Recipe:
    """InfoNCE and ProtoNCE (equation 11) with MoCo's optimizer; the clusters themselves are read off our run."""
    parts: Parts = {"encoder": start.encoder, "projector": nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128))}
    query, queue = nn.Sequential(*parts.values()), start.queue.keys.clone()  # type: ignore[arg-type]
    key = copy.deepcopy(query)

    def loss(batch: Batch) -> Tensor:
        nonlocal queue
        x1, x2, draw = batch.views
        if recipe.steps == 0:
            follow(key.parameters(), query.parameters(), 0.0)
        q, k = F.normalize(query(x1)), keys(key, x2, torch.argsort(draw))
        out, first = against_queue(q, k, queue, 0.2), 0
        queue = torch.cat([queue[B:], k])
        for level, count in enumerate((4, 8) if recipe.run.clustered else ()):
            centers, phi = recipe.run.prototypes[first : first + count], recipe.run.phi[first : first + count]
            out = out + 0.5 * F.cross_entropy(q @ centers.T / phi, recipe.run.assignment[level][batch.ids])
            first += count
        return out

    recipe = Recipe(parts, sgd(parts, 0.03 * B / 256), loss, after=lambda p: follow(key.parameters(), query.parameters(), 0.99))
    return recipe


def lejepa(start: Any) -> Recipe:
    """lightly's loss with facebookresearch/eb_jepa's optimizer; its loss is four times this one, so 0.3 is 1.2 here."""
    projector, sigreg, weight = heads.LeJEPAProjectionHead(64, 128, 128), SIGReg(num_vectors=256), start.config.weight
    parts: Parts = {"encoder": start.encoder, "projector": projector}

    def loss(batch: Batch) -> Tensor:
        *views, slices = batch.views
        sigreg._generate_unit_vectors = lambda *args: slices.T  # type: ignore[method-assign]
        z = torch.stack(list(projector(start.encoder(torch.cat(views))).chunk(2)))
        return (1 - weight) * lejepa_invariance_loss(all_proj=z, global_proj=z) + weight * sigreg(z)  # type: ignore[no-any-return]

    return Recipe(parts, clipped(parts, 4 * 0.3 * B / 256, 1e-4 / 4), loss, lambda p: cosine(p, 0.033))


def rotation(start: Any) -> Recipe:
    """The authors' CIFAR-10 configuration: Nesterov 0.1 at batch 128, a fifth at 60, 120 and 160 of 200 epochs."""
    parts: Parts = {"encoder": start.encoder, "classifier": nn.Linear(64, 4)}
    network = nn.Sequential(*parts.values())  # type: ignore[arg-type]

    def loss(batch: Batch) -> Tensor:
        upright = batch.views[0][:, 0]
        turned = torch.stack([upright, *(torch.rot90(upright, k, (2, 3)) for k in (1, 2, 3))], dim=1)
        return F.cross_entropy(network(turned.flatten(0, 1)), torch.arange(4).repeat(B))

    rate = lambda p: 0.2 ** ((p >= 0.3) + (p >= 0.6) + (p >= 0.8))  # noqa: E731
    return Recipe(parts, sgd(parts, 0.1 * B / 128, nesterov=True), loss, rate)


def mae_recipe(start: Any, groups: Callable[[list[Tensor]], Any], normalize: bool) -> Recipe:
    """Tokens in their place, a mask token where one is missing, the error on those alone (the paper's section 3)."""
    names = ("encoder", "embed", "mask_token", "decoder", "head")
    parts: Parts = {name: getattr(start, name) for name in names}
    size, kept = start.encoder.patch_size, start.kept

    def loss(batch: Batch) -> Tensor:
        x, order = batch.views
        latent = start.embed(start.encoder.tokens(x, order[:, :kept])[-1])
        count, width = order.shape[1], latent.shape[-1]
        full = start.mask_token.expand(B, count, width).clone()
        full = full.scatter(1, order[:, :kept, None].expand(-1, -1, width), latent[:, 1:])
        full = torch.cat([latent[:, :1], full + sincos_positions(int(count**0.5), width)], dim=1)
        predicted = start.head(start.decoder(full)[:, 1:])
        target = x.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        if normalize:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        hidden = torch.ones(B, count).scatter(1, order[:, :kept], 0.0)
        return ((predicted - target).square().mean(-1) * hidden).sum() / hidden.sum()

    optimizer = torch.optim.AdamW(groups(trained(parts)), lr=1.5e-4 * B / 256, betas=(0.9, 0.95), weight_decay=0.05)
    return Recipe(parts, optimizer, loss, lambda p: cosine(p, 0.1 if not normalize else 0.05))


def mae(start: Any) -> Recipe:
    """IcarusWizard/MAE: plain pixels as the target, decay on every parameter."""
    return mae_recipe(start, lambda weights: weights, normalize=False)


def mae_normalized(start: Any) -> Recipe:
    """The authors' main_pretrain.py: targets normalized per patch, norms and biases not decayed, 40 of 800 epochs warm-up."""
    return mae_recipe(start, lambda weights: split(weights, 0.05), normalize=True)
