"""PIRL: printed values of both forms, negatives without the image itself, tiles in order, bank from images only."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.pirl import PIRL, PIRLConfig, bank_loss
from ssl_core.parts.patches import grid_geometry
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, STILL, encoder_of

CONFIG = PIRLConfig(
    grid=2, tile_scale=(0.6, 1.0), dim=8, temperature=0.5, weight=0.5, form="ce", negatives=0, norm=True, bank_momentum=0.5
)
IDS = torch.tensor([3, 1, 20, 7, 11, 2, 30, 9])
IMAGES = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

BANK = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.8, 0.6]], dtype=torch.float64)
A_TILES, A_IMAGE = (torch.tensor([row], dtype=torch.float64) for row in ([0.28, 0.96], [0.8, 0.6]))


def make(**changes: object) -> PIRL:
    torch.manual_seed(0)
    encoder = encoder_of()
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    return PIRL(encoder, config, AUGMENT, DataInfo(32, 16, 1, (0.5,), (0.25,)))


def batch(method: PIRL, step: int = 0) -> Batch:
    return Batch(method.views(IMAGES, Rng(IDS, step)), IDS, 0.0)


@pytest.mark.parametrize(
    ("form", "tiles", "image", "mix"),
    [("ce", 0.45759525, 0.59326732, 0.52543128), ("nce", 0.86355389, 1.15348802, 1.00852096)],
)
def test_both_forms_of_the_worked_example(form: str, tiles: float, image: float, mix: float) -> None:
    rows = BANK[[1, 0, 3]]
    own = torch.tensor([0])
    parts = [bank_loss(a @ rows.T / 0.5, own, form).item() for a in (A_TILES, A_IMAGE)]
    assert parts == pytest.approx([tiles, image], abs=2e-8)
    assert 0.5 * parts[0] + 0.5 * parts[1] == pytest.approx(mix, abs=2e-8)


def test_the_worked_example_through_the_loss() -> None:
    method = make(dim=2, negatives=2, form="nce")
    method.encoder = method.image_head = torch.nn.Identity()  # type: ignore[assignment]
    method.embed_tiles = lambda x: A_TILES.float()  # type: ignore[method-assign]
    method.bank.vectors = BANK.float()
    out = method.loss(Batch((A_IMAGE.float(), torch.zeros(1), torch.tensor([[0, 3]])), torch.tensor([1]), 0.0))
    assert out["loss"].item() == pytest.approx(1.00852096, abs=5e-7)
    expected = F.normalize(0.5 * BANK[1] + 0.5 * A_IMAGE[0], dim=0).float()
    torch.testing.assert_close(method.bank.vectors[1], expected)


@pytest.mark.parametrize("form", ["ce", "nce"])
def test_the_forms_are_the_formula_written_as_loops_wherever_the_positive_stands(form: str) -> None:
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own, total = torch.tensor([2, 0, 5, 3]), 0.0
    for row, positive in zip(logits, own.tolist(), strict=True):
        z = sum(math.exp(float(s)) for s in row)
        total -= math.log(math.exp(float(row[positive])) / z)
        if form == "nce":
            total -= sum(math.log(1 - math.exp(float(s)) / z) for j, s in enumerate(row) if j != positive)
    assert bank_loss(logits, own, form).item() == pytest.approx(total / 4, rel=1e-10)


def test_nce_stays_finite_with_gradient_when_a_negative_is_certain() -> None:
    logits = torch.tensor([[0.0, 200.0]], requires_grad=True)
    loss = bank_loss(logits, torch.tensor([0]), "nce")
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


def test_drawn_negatives_are_all_other_images_and_never_the_image_itself() -> None:
    _, _, negatives = make(negatives=600).views(IMAGES, Rng(IDS, 0))
    for row, own in zip(negatives, IDS.tolist(), strict=True):
        assert row.unique().tolist() == [i for i in range(32) if i != own]


def test_without_drawing_every_other_image_is_a_negative() -> None:
    method = make().eval()
    data, old = batch(method), method.bank.read()
    image, tiles = method.embed_image(data.views[0]), method.embed_tiles(data.views[1])
    expected = 0.5 * sum(F.cross_entropy(v @ old.T / 0.5, IDS) for v in (image, tiles))
    torch.testing.assert_close(method.loss(data)["loss"], expected)
    torch.testing.assert_close(method.bank.vectors[IDS], F.normalize(0.5 * old[IDS] + 0.5 * image.detach(), dim=1))


@pytest.mark.parametrize(("size", "grid"), [(16, 2), (28, 2), (32, 3), (64, 3), (96, 3), (224, 3)])
def test_tiles_have_the_shape_of_the_geometry_and_come_shuffled_per_image(size: int, grid: int) -> None:
    encoder = encoder_of(1, size)
    config = dataclasses.replace(CONFIG, grid=grid, tile_scale=(1.0, 1.0))
    method = PIRL(encoder, config, STILL, DataInfo(32, size, 1, (0.0,), (1 / 255,)))
    cell = grid_geometry(size, grid).cell
    cells = torch.arange(grid * grid).reshape(grid, grid).repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    picture = torch.zeros(size, size, dtype=torch.uint8)  # every pixel says which cell it is in
    picture[: grid * cell, : grid * cell] = cells
    ids = torch.arange(32)
    tiles = method.views(picture.expand(32, 1, size, size).contiguous(), Rng(ids, 0))[1]
    side = grid_geometry(size, grid).tile
    assert tiles.shape == (32, grid * grid, 1, side, side)
    cell_of = tiles[:, :, 0, side // 2, side // 2].round().long()
    assert len(cell_of.unique(dim=0)) > 8  # many orders
    if size % grid == 0:  # else the grid itself moves by a pixel
        assert torch.equal(cell_of.sort(1).values, torch.arange(grid * grid).expand(32, -1))


def test_the_vector_of_the_tiles_depends_on_their_order() -> None:
    method = make().eval()
    tiles = batch(method).views[1]
    assert not torch.allclose(method.embed_tiles(tiles), method.embed_tiles(tiles.flip(1)), atol=1e-3)
    torch.testing.assert_close(method.embed_tiles(tiles).norm(dim=1), torch.ones(8))


def test_the_tiles_never_reach_the_bank() -> None:
    first, second = make(), make()
    data = batch(first)
    first.loss(data)
    second.loss(data._replace(views=(data.views[0], torch.zeros_like(data.views[1]))))
    assert torch.equal(first.bank.vectors, second.bank.vectors)


def test_with_weight_zero_it_is_instance_discrimination_with_a_sampled_softmax() -> None:
    method = make(weight=0.0, negatives=5).eval()
    data, old = batch(method), method.bank.read()
    candidates = torch.cat([IDS[:, None], data.views[2]], dim=1)
    logits = torch.einsum("bd,bkd->bk", method.embed_image(data.views[0]), old[candidates]) / 0.5
    torch.testing.assert_close(method.loss(data)["loss"], F.cross_entropy(logits, torch.zeros_like(IDS)))


def test_all_tiles_share_one_forward_pass() -> None:
    method = make()
    method.loss(batch(method))
    assert int(method.encoder.stem[1].num_batches_tracked) == 2  # type: ignore[index,union-attr]  # the images, the tiles
