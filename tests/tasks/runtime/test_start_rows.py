"""What a training starts from must be a row of the table: which methods lack one is read off params.yaml."""

import copy
from pathlib import Path
from typing import Any

import pytest

from tasks.runtime import params
from tasks.runtime.errors import UsageError
from tasks.runtime.start_rows import check, is_idle, lacking, rows_of
from tests.conftest import ROOT
from tests.support.project import command, copy_project, set_params

SHIPPED = params.load(ROOT / "params.yaml")
LITE0 = {"name": "timm/tf_efficientnet_lite0", "weights": "package", "input_size": 96}


def values(methods: list[str], encoder: dict[str, Any] | None = None, **own: dict[str, Any]) -> dict[str, Any]:
    """params.yaml with these methods, common encoder and encoders of their own."""
    found = copy.deepcopy(SHIPPED)
    found["run"]["methods"] = methods
    found["encoder"] |= encoder or {}
    for name, changes in own.items():
        found["method"][name]["encoder"] = changes
    return found


def test_as_shipped_and_from_the_weights_of_a_row_nothing_is_lacking() -> None:
    assert lacking(SHIPPED) == [] and not is_idle(SHIPPED)
    check(SHIPPED)
    assert lacking(values(["simclr", "cpc", "pretrained"], LITE0)) == []  # cpc has a norm of its own, which timm does not
    assert lacking(values(["simclr", "start"], LITE0)) == []


def test_other_weights_another_network_or_no_row_at_all_is_lacking() -> None:
    assert lacking(values(["simclr", "byol"], LITE0)) == ["simclr", "byol"]
    assert lacking(values(["simclr", "pretrained"], LITE0 | {"input_size": 64})) == ["simclr"]
    assert lacking(values(["simclr", "byol", "pretrained"], byol={"weights": "weights/mine.pth"})) == ["byol"]
    assert lacking(values(["simclr", "start"], {"weights": "weights/mine.pth"}, simclr={"width": 8})) == ["simclr"]


def test_a_method_that_is_asked_for_brings_the_row_it_starts_from() -> None:
    found = values(["simclr", "byol", "raw_pixels", "pretrained"], simclr=LITE0)
    assert rows_of(found, ["simclr"]) == ["pretrained"] and rows_of(found, ["byol"]) == []


def test_a_training_without_its_row_and_a_row_without_weights_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"simclr starts from weights, and no row of run.methods is these"):
        check(values(["simclr"], LITE0))
    for idle in (values(["simclr", "start"]), values(["simclr", "start"], simclr={"width": 8})):
        with pytest.raises(UsageError, match=r"nothing starts from them; take it out"):
            check(idle)


@pytest.mark.parametrize("broken", [{"run": {}}, {"method": None}, {"encoder": 3}, {"run": {"methods": [None, 3]}}])
def test_what_is_malformed_is_left_to_those_who_read_it_strictly(broken: dict[str, Any]) -> None:
    assert lacking(SHIPPED | broken) == []


def test_a_row_of_an_encoder_of_others_without_weights_is_refused_by_every_command(tmp_path: Path) -> None:
    found = values(["simclr", "random_init", "raw_pixels", "supervised", "pretrained"])
    check(found)
    found["method"]["pretrained"]["encoder"]["weights"] = None
    with pytest.raises(UsageError, match=r"^method.pretrained: encoder.weights is null"):
        check(found)
    project = copy_project(tmp_path / "p", git=True)
    set_params(project, {"run": found["run"], "method": {"pretrained": {"encoder": {"weights": None}}}})
    for arguments in (["tasks.run"], ["dvc", "repro", "pretrain@pretrained-0"]):
        done = command(project, *arguments)
        assert done.returncode and "method.pretrained: encoder.weights is null" in done.stderr, done.stderr
    assert not (project / "out/encoders/pretrained-0").exists()
