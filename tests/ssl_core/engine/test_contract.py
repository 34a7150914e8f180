"""What every method promises to the loop (ssl_core/engine/method.py). A method gets these tests by being in the catalogue."""

import copy
import functools
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ssl_core.catalogue import METHODS, load_class
from ssl_core.config import typed
from ssl_core.engine import encoders
from ssl_core.engine.augment import resize
from ssl_core.engine.data import Images
from ssl_core.engine.encoders import open_residuals
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.engine.train import Trainer
from ssl_core.rng import Rng
from tasks.pretrain.sheet import view_sheet
from tasks.runtime import params
from tests.conftest import textured_images

TRAINED = [*METHODS, "supervised"]
N, BATCH = 64, 16
CPU = torch.device("cpu")
Trained = Callable[[str], tuple[Method, Trainer]]


def build(
    shipped: dict[str, Any],
    name: str,
    channels: int = 1,
    size: int = 28,
    n: int = N,
    epochs: int = 2,
    precision: str = "float32",
) -> tuple[Method, Trainer]:
    """A method on tiny data, with a narrow encoder and the shipped numbers of its own block."""
    values = copy.deepcopy(shipped)
    values["encoder"]["width"] = 8
    own = values["method"][name]
    own["train"] = own.get("train", {}) | {
        "epochs": epochs,
        "epoch_share": 1.0,
        "batch_size": BATCH,
        "precision": precision,
        "health_images": 32,
    }
    own["encoder"] = shrink(own.get("encoder", {}))
    own["augment"] = own.get("augment", {}) | {"view_share": 1.0}
    own |= SMALL.get(name, {})
    chosen = params.method_params(values, name)
    images = textured_images(n, channels, size)
    labels = torch.arange(n) % 4
    mean = tuple(float(images[:, c].mean() / 255) for c in range(channels))
    info = DataInfo(n, size, channels, mean, (0.25,) * channels, labels if name == "supervised" else None, 4)
    encoder = encoders.build(chosen.encoder, channels, size, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        method = load_class(name)(encoder, chosen.config, chosen.augment, info)
    return method, Trainer(method, Images(images, CPU), chosen.train, seed=0)


# Numbers that must fit the tiny data set.
SMALL: dict[str, dict[str, Any]] = {
    "exemplar": {"seed_share": 1.0},
    "moco": {"queue": 32, "splits": 2},
    "pcl": {"queue": 32, "clusters": [4, 8], "splits": 2},
    "nnclr": {"queue": 32},
    "swav": {"prototypes": 16, "queue": 32},
    "npid": {"negatives": 8},
    "pirl": {"negatives": 8},
    "dino": {"prototypes": 32},
}


def shrink(encoder: dict[str, Any]) -> dict[str, Any]:
    """The method's own encoder choice, made small."""
    return encoder | ({"width": 32, "depth": 2} if encoder.get("name") == "vit" else {})


def state(method: Method) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in method.state_dict().items()}


def make_batch(method: Method, images: Images, step: int = 0) -> Batch:
    ids = torch.arange(BATCH) * 3 % len(images)
    with torch.no_grad():
        return Batch(method.views(images.batch(ids), Rng(ids, 0, step)), ids, 0.5)


@pytest.fixture(scope="module")
def trained(shipped: dict[str, Any]) -> Trained:
    """Trains a method for some steps, once for all tests; each gets a copy."""
    once = functools.cache(lambda name: some_steps(shipped, name))
    return lambda name: copy.deepcopy(once(name))


def some_steps(shipped: dict[str, Any], name: str) -> tuple[Method, Trainer]:
    """A method some steps away from its initialization, where a momentum copy differs from what it copies."""
    method, trainer = build(shipped, name)

    class Enough(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.step == 5:
            raise Enough

    with pytest.raises(Enough):
        trainer.run(on_step=stop)
    return method, trainer


@pytest.mark.parametrize("name", METHODS)
def test_the_sheet_shows_more_than_the_images_themselves(shipped: dict[str, Any], name: str) -> None:
    method, trainer = build(shipped, name)
    sheet = Image.open(io.BytesIO(view_sheet(method, trainer.images)))
    assert sheet.width == 8 * 68 + 4 and sheet.height >= 2 * 68 + 4


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.fault("R1", "F50")
def test_loss_is_a_finite_scalar_and_repeats_exactly(trained: Trained, name: str) -> None:
    method, trainer = trained(name)
    batch = make_batch(method, trainer.images)
    saved = state(method)
    random_state = torch.random.get_rng_state()
    first = method.loss(batch)
    assert torch.equal(torch.random.get_rng_state(), random_state), "loss drew a random number"
    method.load_state_dict(saved)
    second = method.loss(batch)
    assert first["loss"].requires_grad
    for key, value in first.items():
        assert value.ndim == 0 and torch.isfinite(value), key
        assert torch.equal(value, second[key]), key


@pytest.mark.parametrize("name", TRAINED)
def test_loss_writes_no_parameter_and_views_touch_nothing(trained: Trained, name: str) -> None:
    method, trainer = trained(name)
    before = state(method)
    random_state = torch.random.get_rng_state()
    batch, again = make_batch(method, trainer.images), make_batch(method, trainer.images)
    other = make_batch(method, trainer.images, step=1)
    assert torch.equal(torch.random.get_rng_state(), random_state), "views used a global generator"
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items()), "views wrote something"
    assert all(torch.equal(a, b) for a, b in zip(batch.views, again.views, strict=True)), "views are no function of rng"
    assert any(not torch.equal(a, b) for a, b in zip(batch.views, other.views, strict=True)), "views ignore rng"
    method.loss(batch)["loss"].backward()
    for key, parameter in method.named_parameters():
        assert torch.equal(parameter, before[key]), f"loss wrote {key}"


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.fault("F54")
def test_mixed_precision_reaches_the_networks_and_nothing_else(shipped: dict[str, Any], name: str) -> None:
    """With the layers held in float32, autocast changes no bit: similarities, covariances and codes are never rounded."""
    method, trainer = build(shipped, name)
    for epoch in (0, 1):
        method.before_epoch(epoch, trainer.embed)
    batch, saved = make_batch(method, trainer.images), state(method)
    for module in method.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.TransformerEncoderLayer):
            module.forward = torch.autocast("cpu", enabled=False)(module.forward)  # type: ignore[method-assign]
    expected = method.loss(batch)
    method.load_state_dict(saved)
    with torch.autocast("cpu", torch.bfloat16):
        out = method.loss(batch)
    for key, value in expected.items():
        assert out[key].dtype == torch.float32 and torch.equal(out[key], value), key


@pytest.mark.parametrize("name", TRAINED)
def test_every_trained_parameter_is_in_one_group_and_gets_a_gradient(trained: Trained, name: str) -> None:
    method, trainer = trained(name)
    grouped = [p for g in method.param_groups() for p in g["params"]]
    assert len({id(p) for p in grouped}) == len(grouped)
    assert {id(p) for p in grouped} == {id(p) for p in method.parameters() if p.requires_grad}
    method.zero_grad(set_to_none=True)
    for step in range(2):
        method.loss(make_batch(method, trainer.images, step))["loss"].backward()
    for key, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, f"{key} gets no gradient"
        else:
            assert parameter.grad is None, f"{key} is not trained but gets a gradient"


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.fault("F1", "R2", "R5")
def test_training_stopped_and_resumed_at_any_step_ends_with_the_same_bits(shipped: dict[str, Any], name: str) -> None:
    _, whole = build(shipped, name)
    kept: dict[int, Any] = {}

    def keep(progress: Any) -> None:
        if progress.step in (1, 4, 6):  # inside the first epoch, at its end, inside the second
            tensors = {k: v.clone() for k, v in whole.tensors().items()}
            kept[progress.step] = (tensors, copy.deepcopy(whole.scalars()))

    whole.run(on_step=keep)
    expected = whole.tensors()
    assert len(kept) == 3
    for step, state in kept.items():
        _, resumed = build(shipped, name)
        resumed.load(*state)
        resumed.run()
        assert expected.keys() == resumed.tensors().keys()
        for key, value in resumed.tensors().items():
            assert torch.equal(value, expected[key]), f"{key} differs after a resume at step {step}"
        assert resumed.history == whole.history


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (3, 96), (1, 64)])
def test_works_in_gray_and_color_at_any_size(shipped: dict[str, Any], name: str, channels: int, size: int) -> None:
    method, trainer = build(shipped, name, channels, size, n=BATCH * 2)
    method.before_epoch(0, trainer.embed)
    loss = method.loss(make_batch(method, trainer.images))["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    features = trainer.features(method.exported, torch.arange(4))
    assert features.shape == (4, method.exported.dim) and features.dtype == torch.float32


@pytest.mark.parametrize("name", TRAINED)
def test_views_of_large_images_are_whole_and_lie_inside(shipped: dict[str, Any], name: str) -> None:
    method, trainer = build(shipped, name, channels=3, size=224, n=BATCH * 2)
    pictures = [v for v in make_batch(method, trainer.images).views if v.is_floating_point() and v.ndim > 3]
    for view in pictures:
        assert torch.isfinite(view).all() and 16 <= view.shape[-1] == view.shape[-2] <= 224
    assert pictures


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.fault("F49")
def test_images_of_a_batch_do_not_see_each_others_randomness(shipped: dict[str, Any], name: str) -> None:
    method, trainer = build(shipped, name)
    ids = torch.arange(BATCH)
    whole = method.views(trainer.images.batch(ids), Rng(ids, 0, 1))
    half = method.views(trainer.images.batch(ids[8:]), Rng(ids[8:], 0, 1))
    for a, b in zip(whole, half, strict=True):
        if len(a) == BATCH and len(b) == 8:
            torch.testing.assert_close(a[8:], b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_config_refuses_a_wrong_key(shipped_copy: dict[str, Any], name: str) -> None:
    block = {k: v for k, v in shipped_copy["method"][name].items() if k not in ("train", "augment", "encoder")}
    config = load_class(name).Config
    assert typed(config, block, name)
    with pytest.raises(ValueError, match="unknown"):
        typed(config, {**block, "temprature": 1.0}, name)


@pytest.mark.fault("F36")
def test_a_non_finite_loss_stops_before_a_weight_is_touched(shipped: dict[str, Any]) -> None:
    from ssl_core.engine.train import NonFinite

    method, trainer = build(shipped, "simclr")
    before = state(method)
    honest = method.loss
    trainer.forward = lambda batch: {"loss": honest(batch)["loss"] * torch.tensor(float("nan"))}
    with pytest.raises(NonFinite, match="step 0"):
        trainer.run()
    for key, parameter in method.named_parameters():
        assert torch.equal(parameter, before[key])


@pytest.mark.fault("F37")
def test_a_non_finite_gradient_is_caught_even_when_the_loss_is_finite(shipped: dict[str, Any]) -> None:
    from ssl_core.engine.train import NonFinite

    method, trainer = build(shipped, "simclr")
    next(p for p in method.parameters() if p.requires_grad).register_hook(lambda g: g * np.inf)
    with pytest.raises(NonFinite, match="gradient"):
        trainer.run()


@pytest.mark.fault("F36", "F37")
def test_a_device_that_is_looked_at_now_and_then_saves_nothing_broken(shipped: dict[str, Any]) -> None:
    """As on a GPU: the step that broke is named, not the one that noticed, and neither a checkpoint nor an epoch is made."""
    from ssl_core.engine.train import NonFinite

    method, trainer = build(shipped, "simclr")
    trainer.guard_steps = 1000
    honest = method.loss
    trainer.forward = lambda batch: {"loss": honest(batch)["loss"] * (np.nan if trainer.step == 2 else 1.0)}
    with pytest.raises(NonFinite, match="the loss is not finite at step 2 of 8"):
        trainer.run()
    assert (trainer.step, len(trainer.history)) == (N // BATCH, 1)
    with pytest.raises(NonFinite, match="step 2"):
        trainer.tensors()


@pytest.mark.fault("F38")
def test_weights_that_overflow_after_a_finite_loss_end_the_training_before_the_row(shipped: dict[str, Any]) -> None:
    from ssl_core.engine.train import NonFinite

    method, trainer = build(shipped, "simclr")
    method.after_step = lambda progress: next(method.parameters()).data.fill_(np.inf if progress == 0.5 else 0.01)
    with pytest.raises(NonFinite, match="the features are not finite after step 4 of 8"):
        trainer.run()
    assert len(trainer.history) == 1


@pytest.mark.fault("F43")
def test_a_batch_larger_than_the_data_is_refused(shipped: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="larger than the 8 training images"):
        build(shipped, "simclr", n=8)


def test_a_training_is_judged_against_the_untrained_encoder_with_its_residual_branches_on(shipped: dict[str, Any]) -> None:
    method, trainer = build(shipped, "simclr")
    start = {name: value.clone() for name, value in method.exported.state_dict().items()}
    trainer.steps = 0
    trainer.run()
    (first,) = trainer.history
    assert all(torch.equal(start[name], value) for name, value in method.exported.state_dict().items())
    shortcuts = trainer.health(method.exported)
    opened = trainer.health(open_residuals(copy.deepcopy(method.exported)))
    assert opened == {name: first[name] for name in opened} != shortcuts


@pytest.mark.parametrize("name", ["simclr", "swav", "rotation", "jigsaw", "exemplar", "pirl", "mae"])
def test_images_may_be_stored_larger_than_the_encoder_takes_them(shipped: dict[str, Any], name: str) -> None:
    """Crops are of what is stored; whatever looks at whole images sees them resized, and every view has the usual side."""
    method, usual = build(shipped, name, epochs=1)
    large = textured_images(N, 1, 56)
    trainer = Trainer(method, Images(large, CPU), usual.config, seed=0)
    ids = torch.arange(BATCH)
    shapes = [[v.shape for v in method.views(method.seen(t.images.batch(ids)), Rng(ids, 0, 1))] for t in (usual, trainer)]
    assert shapes[0] == shapes[1]
    small = resize(torch.from_numpy(large), 28)
    assert torch.equal(method.whole(torch.from_numpy(large)), small)
    with torch.no_grad():
        expected = method.exported.eval()(method.normalize(small[:BATCH]))
    torch.testing.assert_close(trainer.features(method.exported, ids), expected, rtol=1e-4, atol=1e-4)
    trainer.run()
    assert trainer.step == trainer.steps and np.isfinite(trainer.history[-1]["loss"])


def test_a_crop_of_a_larger_stored_image_has_detail_that_the_small_one_has_lost(shipped: dict[str, Any]) -> None:
    method, _ = build(shipped, "simclr")
    checks = torch.from_numpy(np.indices((56, 56)).sum(0) % 2 * np.uint8(255)).expand(8, 1, 56, 56)  # one pixel a field
    still = replace(method.augment, crop_scale=(0.25, 0.25), jitter=0.0, grayscale=0.0, flip=0.0)
    rng = Rng(torch.arange(8), 0)
    detail = [float(method.view(images, rng, still).std()) for images in (checks, method.whole(checks))]
    assert detail[0] > 3 * detail[1]
