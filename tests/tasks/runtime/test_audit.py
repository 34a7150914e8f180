"""audit.json: what is written comes back the same, and what is damaged is named in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.runtime import audit
from tasks.runtime.audit import Conflicts, Examples, Labelled, NearDuplicates, NearPair, Quarantined, Sizes
from tasks.runtime.errors import IntegrityError
from tests.support import audits

FULL = audits.audit(
    classes={"train": {"cat": 2}, "test": {"cat": 1}, "holdout": {"cat": 0}},
    quarantined=(Quarantined("a.png", "empty file"),),
    constant={"train": Examples(1, ("b.png",)), "test": Examples(0, ())},
    conflicts=Conflicts(1, ((Labelled("c.png", "cat"), Labelled("d.png", "dog")),)),
    near_duplicates=NearDuplicates(1, 9, 0.81, 0, (NearPair(3, 7, 0.93, False),)),
    sizes=Sizes({"24x24": 3}, (24, 24), (30, 40)),
    warnings=("one class is small",),
)


def test_what_is_written_comes_back_the_same(tmp_path: Path) -> None:
    audit.write(tmp_path, FULL)
    assert audit.load(tmp_path) == FULL
    assert json.loads((tmp_path / "audit.json").read_text())["near_duplicates"]["pairs"] == [[3, 7, 0.93, False]]


def drop(values: dict[str, Any]) -> None:
    del values["leaks"]["dropped"]


def rename(values: dict[str, Any]) -> None:
    values["leak"] = values.pop("leaks")


def shorten(values: dict[str, Any]) -> None:
    values["near_duplicates"]["pairs"][0].pop()


def misplace(values: dict[str, Any]) -> None:
    values["duplicates"]["train"] = "none"


def flatten(values: dict[str, Any]) -> None:
    values["classes"] = ["cat"]


def count_in_words(values: dict[str, Any]) -> None:
    values["sizes"]["common"]["24x24"] = "three"


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (drop, "audit.leaks.dropped is missing"),
        (rename, "audit.leak is unknown"),
        (shorten, "near_duplicates.pairs[0] has 3 values"),
        (misplace, "audit.duplicates.train is 'none'; it must be a mapping"),
        (flatten, "audit.classes is ['cat']; it must be a mapping"),
        (count_in_words, "audit.sizes.common.24x24 is 'three'"),
    ],
)
def test_what_is_no_audit_is_named_in_one_line(tmp_path: Path, damage: Any, word: str) -> None:
    audit.write(tmp_path, FULL)
    values = json.loads((tmp_path / "audit.json").read_text())
    damage(values)
    (tmp_path / "audit.json").write_text(json.dumps(values))
    with pytest.raises(IntegrityError) as error:
        audit.load(tmp_path)
    assert word in str(error.value) and "\n" not in str(error.value) and error.value.code == 6


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_what_is_no_json_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"audit\.json") as error:
        audit.load(tmp_path)
    assert "\n" not in str(error.value)
