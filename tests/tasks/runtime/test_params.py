"""params.yaml is refused as a whole before anything runs: every number has bounds, every section is read."""

import copy
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest

from ssl_core.catalogue import BASELINES, METHODS
from ssl_core.config import ConfigError
from tasks import preset
from tasks.runtime import params
from tests.conftest import ROOT
from tests.ssl_core.test_catalogue import EIGHT, TWELVE


def numbers(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """The path of every number in nested mappings and lists."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(inner, *path, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def refusal(shipped: dict[str, Any], path: tuple[Any, ...], value: Any) -> str:
    """The message when the value at ``path`` is ``value``; empty when it is accepted."""
    changed = copy.deepcopy(shipped)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    try:
        params.check(changed)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.fault("F49")
def test_no_number_may_be_negative_or_none_at_all(shipped: dict[str, Any]) -> None:
    found = list(numbers(shipped))
    assert len(found) > 200
    for number, path in enumerate(found):
        wrong = (-1, math.nan, math.inf)[number % 3]
        message = refusal(shipped, path, wrong)
        name = next(str(key) for key in reversed(path) if isinstance(key, str))
        assert name in message and str(wrong) in message and "must be" in message, f"{path}: {message!r}"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("train", "lr"), 0, "train.lr is 0.0; it must be a number above 0"),
        (("train", "batch_size"), 0, "train.batch_size is 0; it must be a whole number of at least 1"),
        (("train", "momentum"), 1.0, "train.momentum is 1.0; it must be at least 0 and below 1"),
        (("augment", "crop_scale"), [0.0, 1.0], "augment.crop_scale[0] is 0.0; it must be above 0 and at most 1"),
        (("augment", "flip"), 1.5, "augment.flip is 1.5; it must be from 0 to 1"),
        (
            ("augment", "crop_scale"),
            [1.0, 0.4],
            "crop_scale is [1.0, 0.4]; it must be two numbers, the smaller one first",
        ),
        (("augment", "hue"), 0.9, "augment.hue is 0.9; it must be from 0 to 0.5"),
        (("method", "swav", "crops", "scale"), [0.4, 0.1], "method.swav.crops.scale is [0.4, 0.1]; it must be two numbers"),
        (("method", "pirl", "weight"), 3.0, "method.pirl.weight is 3.0; it must be from 0 to 1"),
        (("evaluate", "linear_lambda_range"), [1.0, 0.1], "evaluate.linear_lambda_range is [1.0, 0.1]; it must be two numbers"),
        (("evaluate", "bootstrap"), 1, "evaluate.bootstrap is 1; it must be a whole number of at least 40"),
        (("evaluate", "knn_k"), [0], "evaluate.knn_k[0] is 0; it must be"),
        (("evaluate", "knn_k"), [], "evaluate.knn_k must name at least one"),
        (("evaluate", "knn"), [1], "evaluate.knn is unknown; did you mean 'knn_k'"),
        (("method", "simclr", "temperature"), 0.0, "method.simclr.temperature is 0.0; it must be a number above 0"),
        (("method", "lejepa", "dim"), 0, "method.lejepa.dim is 0"),
        (("encoder", "name"), "resnet19", "encoder.name: 'resnet19' is unknown; did you mean 'resnet18'"),
        (("run", "methods"), ["SimCLR"], "run.methods: 'SimCLR' is unknown; did you mean 'simclr'?"),
        (("data", "more"), ["/next"], "data.more is ['/next']; it must be a mapping, {NAME: PATH}"),
        (("run", "methods"), "simclr", "run.methods is 'simclr'; it must be a list"),
        (("run", "seeds"), 0, "run.seeds is 0; it must be a list"),
        (("train", "batch_size"), None, "train.batch_size is null; it must be a whole number"),
        (("train", "batch_size"), "256", "train.batch_size is '256'; it must be a whole number"),
        (("train", "lr"), True, "train.lr is true; it must be a number"),
        (("evaluate",), 5, "evaluate is 5; it must be a mapping"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(
    shipped: dict[str, Any], path: tuple[str, ...], value: Any, message: str
) -> None:
    assert message in refusal(shipped, path, value)


@pytest.mark.parametrize("weights", ["package", "weights/mine.pth"])
def test_an_encoder_for_all_methods_leaves_those_alone_that_have_a_network_of_their_own(shipped_copy, weights):
    lite0 = {"name": "timm/tf_efficientnet_lite0", "weights": weights, "input_size": 96}
    shipped_copy["encoder"] |= lite0
    params.check(shipped_copy)
    own, common = (params.method_params(shipped_copy, name).encoder for name in ("mae", "simclr"))
    assert (own.name, own.weights, own.input_size) == ("vit", None, None)
    assert (common.name, common.weights, common.input_size) == tuple(lite0.values())


@pytest.mark.parametrize("name", ["", "a" * 101, "../../etc", "a\\b", "two\nlines"])
@pytest.mark.fault("F79")
def test_a_name_of_the_data_that_makes_no_file_name_is_refused_in_one_short_line(shipped_copy, name):
    shipped_copy["data"]["name"] = name
    with pytest.raises(ConfigError, match=r"data\.name must have 1 to 100 characters") as caught:
        params.data_config(shipped_copy)
    assert len(str(caught.value)) < 120 and "\n" not in str(caught.value)
    shipped_copy["data"]["name"] = "Röntgen (2024) #1"
    params.data_config(shipped_copy)


def test_patches_that_do_not_fill_an_image_are_refused_before_anything_runs(shipped_copy: dict[str, Any]) -> None:
    shipped_copy["data"]["image_size"] = 50
    params.check(shipped_copy)  # MAE, the only ViT, is not switched on
    shipped_copy["run"]["methods"].append("mae")
    with pytest.raises(ConfigError, match="patch_size 4 must divide the image size 50"):
        params.check(shipped_copy)
    shipped_copy["method"]["mae"]["encoder"]["patch_size"] = 5
    params.check(shipped_copy)


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("train", {"lr": -1.0}, "train.lr is -1.0"),
        ("train", {"batchsize": 3}, "train.batchsize is unknown; did you mean 'batch_size'?"),
        ("augment", {"x": 1}, "augment.x is unknown"),
        ("finetune", {"train": {"lr": -1.0}}, "finetune.train.lr is -1.0"),
        ("method", {"simclr": {"train": {"lr": -1.0}}}, "method.simclr.train.lr is -1.0"),
        ("method", {"simclr": {"encoder": {"width": "x"}}}, "method.simclr.encoder.width is 'x'"),
        ("run", {"finetune": ["swav"]}, "run.finetune: 'swav' is not in run.methods, whose encoders are fine-tuned"),
        ("run", {"finetune": ["raw_pixels"]}, "run.finetune: raw_pixels has no weights to train"),
        ("run", {"finetune": ["supervised"]}, "run.finetune: supervised was trained with all the labels"),
    ],
)
def test_what_is_wrong_is_named_where_it_stands(shipped_copy: dict[str, Any], section: str, values: Any, said: str) -> None:
    preset.merge(shipped_copy, {section: values})
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}"):
        params.check(shipped_copy)


def test_the_twelve_run_by_default_and_the_others_are_one_word_away(shipped: dict[str, Any]) -> None:
    run = params.run_config(shipped)
    own = METHODS.keys() - TWELVE - EIGHT  # what somebody has added (docs/adding-a-method.md)
    assert TWELVE <= set(run.learned) <= TWELVE | own
    assert set(run.baselines) == BASELINES.keys() - {"dinov2", "start"}  # one is downloaded, one is for weights
    commented = set(re.findall(r"^  # - (\w+)$", (ROOT / "params.yaml").read_text(), re.M))
    assert EIGHT <= commented <= EIGHT | own
