"""The module to take home: trains like any other, takes images alone, describes what it gives."""

import importlib.util
import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from mlflow import pyfunc
from torch import nn

from ssl_core.engine.encoders import EncoderConfig, build, description
from tasks import encoder as front
from tasks.register import export, modeling, registry
from tasks.runtime import files, saved_encoder
from tasks.runtime.errors import IntegrityError
from tests.conftest import textured_images
from tests.support import registered as made

KINDS = [
    ("small", "batch", "block3"),
    ("small", "group", "block4"),
    ("resnet18", "batch", "block2"),
    ("vit", "batch", "block1"),
    ("timm/mobilenetv3_small_100", "batch", "block1"),
]


def encoder(name="small", norm="batch", layer="block3", channels=3, seed=1):
    config = EncoderConfig(name=name, width=8 if name == "small" else 32, depth=1, patch_size=4, norm=norm)
    facts = {"encoder": description(config, channels, 32), "mean": [0.4] * channels, "std": [0.3] * channels}
    network = build(config, channels, 32, seed)
    return modeling.ImageEncoder(network, export.describe(network.eval(), facts, layer)).eval()


@pytest.fixture
def images():
    return torch.from_numpy(textured_images(4, 3, 40))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package as ``register`` writes it."""
    root = tmp_path_factory.mktemp("package")
    made.write_project(root, {"simclr": made.METHODS["simclr"]})
    (root / "package").mkdir()
    made.exporter.write(root / "out/encoders/simclr-0", "block3", "card", root / "package")
    return root / "package"


# ------------------------------------------------------------------ what it takes


def test_with_16_bits_integers_wider_than_a_byte_go_to_65535():
    body = encoder()
    body.bits, body.white = 16, 65535
    deep = torch.randint(0, 65536, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    expected = body(deep.float() / 65535)
    for dtype in (torch.int32, torch.int64, torch.uint16):
        assert torch.equal(body(deep.to(dtype)), expected)
    dark = deep // 300  # values of a byte, in wider integers: as dark as they are
    assert torch.equal(body(dark), body(dark.float() / 65535))
    bright = (deep // 256).to(torch.uint8)
    assert torch.equal(body(bright), body(bright.float() / 255))


def test_a_sparse_tensor_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"sparse tensor; give images\.to_dense"):
        encoder()(torch.zeros(2, 3, 32, 32).to_sparse())


@pytest.mark.parametrize("shape", [(2, 3, 0, 32), (2, 3, 32, 0), (0, 3, 0, 0)])
def test_images_without_a_pixel_are_refused(shape):
    with pytest.raises(ValueError, match="they hold no pixel"):
        encoder()(torch.zeros(shape))


# ------------------------------------------------------------------ it trains


@pytest.mark.parametrize(("name", "norm", "layer"), KINDS)
def test_it_trains_with_a_head_and_converts_like_any_module(name, norm, layer, images):
    body = encoder(name, norm, layer)
    full = body(images)
    net = nn.Sequential(body, nn.Linear(full.shape[1], 2)).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(net(images), torch.tensor([0, 1, 0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    first = next(body.encoder.parameters())
    assert losses[-1] < losses[0] and float(first.grad.abs().sum()) > 0
    assert not torch.equal(net.eval()[0](images), full)
    again = encoder(name, norm, layer)
    halved = nn.Sequential(again, nn.Linear(full.shape[1], 2)).half()
    assert halved(images).dtype == torch.float16 and nn.functional.cosine_similarity(again(images), full).min() > 0.999
    assert torch.allclose(again.to(torch.float64)(images).float(), full, atol=0.05)
    assert again.to("meta")(images.to("meta")).shape == full.shape


@pytest.mark.parametrize(("name", "norm", "layer"), KINDS)
def test_every_block_gives_its_dense_map(name, norm, layer, images):
    body = encoder(name, norm, layer)
    maps = body.maps(images)
    assert layer in maps and torch.equal(body(images), maps[layer].mean((2, 3)))
    for other, found in maps.items():
        body.layer = other
        assert found.ndim == 4 and body(images).shape == (4, found.shape[1])


@pytest.mark.parametrize(("name", "norm", "layer"), KINDS)
def test_its_file_is_self_contained_and_gives_the_same(name, norm, layer, images, tmp_path):
    body = encoder(name, norm, layer)
    facts = {
        "encoder": description(
            EncoderConfig(name=name, width=8 if name == "small" else 32, depth=1, patch_size=4, norm=norm), 3, 32
        ),
        "mean": [0.4] * 3,
        "std": [0.3] * 3,
    }
    config = export.describe(body.encoder, facts, layer)
    files.save_tensors(tmp_path / modeling.WEIGHTS, {k: v.numpy() for k, v in body.encoder.state_dict().items()})
    files.write_json(tmp_path / modeling.CONFIG, config)
    text = modeling.source(config, "An encoder.")
    assert "ssl_core" not in text and "tasks." not in text and len(text.splitlines()) < 260
    files.write_text(tmp_path / "theirs.py", text)
    spec = importlib.util.spec_from_file_location("theirs", tmp_path / "theirs.py")
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    assert torch.equal(theirs.load(tmp_path)(images), body(images))
    assert torch.equal(front.load(tmp_path)(images), body(images))


# ------------------------------------------------------------------ what it takes


@pytest.mark.parametrize("kind", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_integers_are_0_to_255(kind, images):
    body, dark = encoder(), images // 3  # int8 ends at 127
    expected = body(dark)
    assert torch.equal(body(dark.to(kind)), expected)
    with pytest.raises(ValueError, match=r"0\.\.255"):
        body(dark.to(kind) - 1 - int(dark.min()))
    if kind != torch.int8:
        with pytest.raises(ValueError, match=r"0\.\.255"):
            body(dark.to(kind) + 256)


@pytest.mark.parametrize(
    ("kind", "close"), [(torch.float16, 0.02), (torch.bfloat16, 0.1), (torch.float32, 1e-5), (torch.float64, 1e-5)]
)
def test_floats_of_any_width_are_0_to_1(kind, close, images):
    body = encoder()
    expected = body(images)
    features = body((images.double() / 255).to(kind))
    assert features.dtype == torch.float32 and torch.allclose(features, expected, atol=close)
    for wrong in (images.to(kind), images.to(kind) / 255 - 0.5, images.to(kind) * float("nan")):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            body(wrong)


def test_what_is_no_image_is_refused(images):
    body = encoder()
    for wrong in (images[0], images[:, :1], images > 3, images.to(torch.complex64), images.numpy(), [images]):
        with pytest.raises(ValueError, match="images"):
            body(wrong)
    assert body(images[:0]).shape == (0, 32)


def test_gradients_reach_the_pixels_and_autocast_leaves_them_exact(images):
    body, unit = encoder(), (images / 255).requires_grad_()
    body(unit).sum().backward()
    assert float(unit.grad.abs().sum()) > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(body.prepare(images), encoder().prepare(images)) and body.prepare(images).dtype == torch.float32


# ------------------------------------------------------------------ what a package holds


@pytest.mark.parametrize("name", [export.ONNX, export.ONNX_FLOAT])
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 28, 28), (5, 28, 28), (2, 64, 64), (3, 17, 90), (1, 200, 9)])
def test_onnx_takes_any_batch_and_size(package, name, batch, height, width):
    images = torch.randint(0, 256, (batch, 1, height, width), dtype=torch.uint8)
    given = images if name == export.ONNX else images / 255
    (features,) = onnxruntime.InferenceSession(package / name).run(["features"], {"images": given.numpy()})
    assert torch.allclose(torch.from_numpy(features), front.load(package)(images).detach(), atol=1e-5)


def test_an_encoder_of_12_bits_takes_what_its_files_held_everywhere(tmp_path):
    made.write_project(tmp_path, {"simclr": made.METHODS["simclr"]})
    source, package = tmp_path / "out/encoders/simclr-0", tmp_path / "package"
    network, facts = saved_encoder.load(source)
    shutil.rmtree(source)
    source.mkdir()
    saved_encoder.save(source, network, facts | {"bits": 16, "bit_depth": 12})
    files.seal(source)
    package.mkdir()
    config = made.exporter.write(source, "block3", "card", package)
    registry._write_mlmodel(package, config, "0" * 32)
    body, raw = front.load(package), torch.randint(0, 4096, (2, 1, 28, 28))
    expected = body(raw / 4095).detach()
    for dtype in (torch.uint16, torch.int16, torch.int64):
        assert torch.allclose(body(raw.to(dtype)), expected, atol=1e-6)
    given = {"images": raw.numpy().astype(np.uint16)}
    (features,) = onnxruntime.InferenceSession(package / export.ONNX).run(["features"], given)
    assert np.allclose(features, expected.numpy(), atol=1e-5)
    assert np.allclose(pyfunc.load_model(str(package)).predict(given)["features"], expected.numpy(), atol=1e-5)
    with pytest.raises(ValueError, match=r"must be in 0\.\.4095, the 12 bits of the files: cut what lies above"):
        body(raw * 16)
    assert (
        "(B, C, H, W): integers in 0..4095, as files of 12 bits have them, or floats" in (package / "modeling.py").read_text()
    )
    body = modeling.ImageEncoder(network, export.describe(network, facts | {"bit_depth": 12}, "block3"))
    with pytest.raises(ValueError, match=r"in 0\.\.255: the files had 12 bits, so give .* floats, divided by 4095"):
        body(raw)


def test_onnx_names_its_axes_and_says_what_it_is(package):
    import onnx

    for name, kind in ((export.ONNX, "tensor(uint8)"), (export.ONNX_FLOAT, "tensor(float)")):
        session = onnxruntime.InferenceSession(package / name)
        (images,), (features,) = session.get_inputs(), session.get_outputs()
        assert (images.name, images.type, images.shape) == ("images", kind, ["batch", 1, "height", "width"])
        assert (features.name, features.shape) == ("features", ["batch", 16])
        about = session.get_modelmeta().custom_metadata_map
        assert (about["layer"], json.loads(about["mean"]), json.loads(about["std"])) == ("block3", [0.4], [0.3])
        opsets = {o.domain: o.version for o in onnx.load(package / name).opset_import}
        assert opsets[""] == export.OPSET
        onnx.checker.check_model(onnx.load(package / name))


def test_another_layer_needs_no_other_trace_and_its_graphs_hold_nothing_behind_it(package, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_trace", None)  # the package's own is there
    sizes = []
    for layer, dim in (("block1", 4), ("block4", 32)):
        (tmp_path / layer).mkdir()
        made.exporter.write(package.parent / "out/encoders/simclr-0", layer, "card", tmp_path / layer)
        (features,) = onnxruntime.InferenceSession(tmp_path / layer / export.ONNX).get_outputs()
        assert (features.name, features.shape) == ("features", ["batch", dim])
        sizes.append((tmp_path / layer / export.ONNX).stat().st_size)
    assert 2 * sizes[0] < sizes[1]


def test_config_describes_the_delivered_layer(package):
    config = files.read_json(package / modeling.CONFIG)
    assert config["layer"] == "block3" and config["dim"] == config["layers"]["block3"] == 16
    assert config["layers"] == {"block1": 4, "block2": 8, "block3": 16, "block4": 32}


@pytest.mark.parametrize("change", ["config", "weights", "layer", "type"])
def test_a_package_that_is_not_one_encoder_is_one_line(package, tmp_path, change):
    for name in (modeling.CONFIG, modeling.WEIGHTS):
        (tmp_path / name).write_bytes((package / name).read_bytes())
    config = files.read_json(tmp_path / modeling.CONFIG)
    if change == "config":
        (tmp_path / modeling.CONFIG).write_text("{")
    elif change == "weights":
        (tmp_path / modeling.WEIGHTS).write_bytes(b"\x10" * 40)
    elif change == "layer":
        files.write_json(tmp_path / modeling.CONFIG, config | {"layer": "block9"})
    else:
        files.write_json(tmp_path / modeling.CONFIG, config | {"encoder": {"config": "small"}})
    with pytest.raises(IntegrityError):
        front.load(tmp_path)
