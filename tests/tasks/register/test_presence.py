"""The registry is asked: what it lacks is found without MLflow, and comes back from the encoders of the project."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from tasks import doctor
from tasks import encoder as front
from tasks.register import modeling, registry
from tasks.register.registration import register
from tasks.register.registry import Entry, package_key
from tasks.results import registered_model
from tasks.runtime import files, settings
from tasks.runtime.errors import TrackerDown, UsageError
from tasks.tracking import loading, own_store, registered
from tasks.tracking.tracker import Tracker
from tests.conftest import textured_images
from tests.support import registered as made
from tests.support.project import set_params

WITHOUT_MLFLOW = """
import sys
sys.modules["mlflow"] = None
from pathlib import Path
from tasks.tracking import registered
assert registered.fault(Path(), whole=True) is None
assert "torch" not in sys.modules and "sqlalchemy" not in sys.modules
"""


def ask(root: Path) -> registered.Stored:
    return registered.ask_file(root / "mlruns/mlflow.db", "ssl-example")


def numbers(root: Path) -> dict[str, int]:
    """Version of each encoder, and what each alias names."""
    stored, wanted = ask(root), registered.load(root)
    return {name: stored.versions[key].number for name, key in wanted.packages.items()} | dict(stored.aliases)


def places(root: Path) -> set[str]:
    """Every place that the store names."""
    with contextlib.closing(sqlite3.connect(root / "mlruns/mlflow.db")) as store:
        tables = [(table, column) for table, columns in own_store.PLACES.items() for column in columns]
        return {place for t, c in tables for (place,) in store.execute(f"SELECT {c} FROM {t}") if place}


# ------------------------------------------------------------------ what is lacking


def test_a_complete_registry_is_read_without_mlflow(original):
    subprocess.run([sys.executable, "-c", WITHOUT_MLFLOW], check=True, cwd=original)


def test_mlflows_client_and_the_file_say_the_same(original, monkeypatch):
    read = ask(original)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", os.environ["MLFLOW_TRACKING_URI"])
    assert registered.ask("ssl-example") == read and len(read.versions) == 3 and read.aliases["champion"]


def alias_elsewhere(root, client):
    client.set_registered_model_alias("ssl-example", "champion", str(numbers(root)["byol-0"]))


def version_deleted(root, client):
    client.delete_model_version("ssl-example", str(numbers(root)["byol-0"]))


def run_and_artifacts_gone(root, client):
    client.delete_run(client.get_model_version_by_alias("ssl-example", "champion").run_id)
    shutil.rmtree(made.stored())


def artifacts_gone(root, client):
    shutil.rmtree(made.stored())


def file_cut(root, client):
    os.truncate(made.stored() / modeling.WEIGHTS, 100)


def store_gone(root, client):
    shutil.rmtree(root / "mlruns")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (alias_elsewhere, "the alias champion of ssl-example at .* does not name simclr-0"),
        (version_deleted, "lacks byol-0"),
        (artifacts_gone, "cannot be loaded: .* is missing"),
        (run_and_artifacts_gone, "cannot be loaded: .* is missing"),
        (file_cut, "is missing or not whole"),
        (store_gone, "ssl-example at .* lacks"),
    ],
)
def test_what_the_registry_lacks_is_named_and_registered_again(root, damage, words):
    from mlflow import MlflowClient

    before = numbers(root)
    damage(root, MlflowClient())
    reason = registered.fault(root)
    assert reason and len(reason.splitlines()) == 1
    assert re.search(words, reason), reason
    assert "make run" in loading.how_to_load(root, "simclr-0") and "load(" not in loading.how_to_load(root, "simclr-0")
    register(root, made.exporter)
    assert registered.fault(root, whole=True) is None
    assert registry.load().module(torch.zeros(1, 1, 28, 28)).shape == (1, 16)
    if damage in (alias_elsewhere, artifacts_gone, run_and_artifacts_gone, file_cut):  # the same versions stand again
        assert numbers(root) == before


def evaluated(root: Path, day: int) -> None:
    """All encoders of a project are of this day in November."""
    for name in registered.load(root).packages:
        end = {"event": "end", "time": 1000 * int(datetime(2026, 11, day, tzinfo=UTC).timestamp()), "status": "FINISHED"}
        end |= {"cost": {}, "encoder_sha256": None, "reason": None}
        (root / f"out/journal/evaluate-{name}.jsonl").write_text(json.dumps(end) + "\n")


def test_a_project_takes_the_alias_from_no_other_one_that_was_evaluated_later(root):
    """A checkout of last week and this week's share a server; each of them runs with nothing to do."""
    colleague = root.parent / "colleague"
    shutil.copytree(root, colleague)
    (colleague / ".ssl/copy").unlink()  # a clone has none
    made.write_encoder(colleague, "simclr", weights=1)
    evaluated(root, 10)
    evaluated(colleague, 17)
    with contextlib.chdir(colleague):
        register(colleague, made.exporter).wanted.write(colleague / registered.REGISTRATION)
    theirs = ask(root).aliases
    assert theirs["champion"] == 4
    said: list[str] = []
    assert registered.ensure(root, said.append) is None and ask(root).aliases == theirs
    line = (
        "the alias champion names version 4, evaluated elsewhere on 2026-11-17 00:00:00 UTC, after all that is here"
        " (and 1 more): python -m tasks.register --take moves it"
    )
    assert said == [line] and line.replace(" (and 1 more)", "") in loading.how_to_load(root, "simclr-0")
    lacking = ask(root).versions[registered.load(root).packages["byol-0"]]
    shutil.rmtree(lacking.source.removeprefix("file://"))
    assert "cannot be loaded" in registered.fault(root), "other faults count"
    again = register(root, made.exporter)
    assert registered.fault(root, whole=True) is None and ask(root).aliases == theirs
    assert line in again.notes and set(again.left) == {"champion", "simclr"}
    assert again.wanted == registered.load(root), "the same as where nobody else is"
    assert not register(root, made.exporter, take=True).left and ask(root).aliases["champion"] == 1


def test_an_experiment_that_is_taken_back_gives_the_alias_back_in_its_own_copy_and_wherever_that_lies(root, monkeypatch):
    evaluated(root, 10)
    before = ask(root).aliases
    made.write_encoder(root, "simclr", weights=1)
    evaluated(root, 17)
    register(root, made.exporter)
    assert ask(root).aliases["champion"] == 4
    made.write_encoder(root, "simclr")  # DVC brings back what was there
    evaluated(root, 10)
    moved = root.rename(root.parent / "moved")
    made.enter(moved, monkeypatch)
    own_store.follow(moved / "mlruns/mlflow.db")
    assert "does not name simclr-0" in registered.fault(moved)
    assert not register(moved, made.exporter).left
    assert ask(moved).aliases == before


def test_versions_that_differ_in_what_their_equal_start_was_called_are_the_same(root):
    stored = ask(root)
    own = stored.named("champion")
    twin = {**own.tags, "start_source": "models:/ssl-example/7", registered.PACKAGE: "f" * 64}
    assert registered.is_same(own.tags, twin)
    assert not any(registered.is_same(own.tags, twin | {tag: "other"}) for tag in registered.SAME)


def test_the_doctor_who_removed_an_encoder_says_what_makes_it_again(root):
    """Registering would fail on what is gone, and would send its user back here."""
    patient = doctor.Doctor(root)
    version = next(iter(ask(root).versions.values()))
    next(Path(version.source.removeprefix("file://")).glob("*.safetensors")).unlink()
    patient.removed = ["out/encoders/simclr-0 was damaged and is removed, so that it is made again"]
    patient.registry()
    assert [line.partition("; ")[2] for line in patient.fixed] == [
        "make run, which makes again what was removed above, registers it too"
    ]
    assert registered.fault(root) is not None, "nothing was tried"


def test_a_changed_byte_is_found_by_reading_the_whole_and_put_back(root):
    weights = made.stored() / modeling.WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    before = numbers(root)
    assert registered.fault(root) is None and "does not match" in registered.fault(root, whole=True)
    register(root, made.exporter)
    assert registered.fault(root, whole=True) is None and numbers(root) == before


@pytest.mark.fault("F67")
def test_a_store_that_is_no_store_is_one_line(root):
    (root / "mlruns/mlflow.db").write_bytes(b"no database, and longer than the header of one" * 9)
    with pytest.raises(TrackerDown, match=r"mlflow\.db cannot be read: file is not a database"):
        registered.fault(root)
    assert "not a database" in str(registered.ensure(root, print))


def test_whoever_rolls_back_has_an_alias_of_their_own_or_a_version(root):
    """The alias champion goes back to what the results say; docs/results.md tells what stays."""
    from mlflow import MlflowClient

    client, older = MlflowClient(), str(numbers(root)["byol-0"])
    for alias in ("champion", "production"):
        client.set_registered_model_alias("ssl-example", alias, older)
    assert "the alias champion of ssl-example" in registered.fault(root)
    register(root, made.exporter)
    found = numbers(root)
    assert registered.fault(root) is None and found["champion"] == found["simclr-0"] and found["production"] == int(older)
    images, same = torch.zeros(1, 1, 28, 28), front.load(root / "out/encoders/byol-0")
    for address in ("models:/ssl-example@production", f"models:/ssl-example/{older}"):
        assert torch.equal(front.load(address)(images), same(images))


# ------------------------------------------------------------------ another place


@pytest.fixture
def moved(root, tmp_path, monkeypatch):
    """A registered project that was moved, to a place whose name is quoted in addresses."""
    target = tmp_path / "new place 100%"
    shutil.move(root, target)
    return made.enter(target, monkeypatch)


def test_a_moved_project_takes_its_registry_along(moved, tmp_path):
    known = [v.number for v in ask(moved).versions.values()]
    assert "moved or copied" in registered.fault(moved)
    assert registry.load().module(torch.zeros(1, 1, 28, 28)).shape == (1, 16)
    assert registered.fault(moved, whole=True) is None
    assert [v.number for v in ask(moved).versions.values()] == known
    here = ((moved / "mlruns").as_uri(), str(moved / "mlruns"))
    assert len(places(moved)) > 6 and all(place.startswith(here) for place in places(moved))
    register(moved, made.exporter)
    assert [v.number for v in ask(moved).versions.values()] == known and not (tmp_path / "project").exists()


def test_a_copy_leaves_the_original_alone(root, tmp_path, monkeypatch):
    copy = shutil.copytree(root, tmp_path / "copy")
    before = places(root)
    made.enter(copy, monkeypatch)
    assert "moved or copied" in registered.fault(copy)
    shutil.rmtree(copy / "mlruns/artifacts" / Path(next(p for p in before if "encoder-" in p)).parts[-3])
    register(copy, made.exporter)
    assert registered.fault(copy) is None and places(root) == before and not places(copy) & before
    made.enter(root, monkeypatch)
    assert registered.fault(root, whole=True) is None


def test_a_store_that_follows_and_is_killed_is_as_before(moved, monkeypatch):
    before, real = places(moved), own_store._replace

    def broken(connection, old, new):
        real(connection, old, new)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(own_store, "_replace", broken)
    with pytest.raises(TrackerDown, match="was moved"):
        registry.load()
    assert places(moved) == before


# ------------------------------------------------------------------ the lines


def test_the_lines_of_the_terminal_work_in_any_directory_and_leave_nothing_there(original, tmp_path):
    first, *lines = loading.how_to_load(original, "simclr-0").splitlines()
    assert first == "best encoder, simclr-0:" and len(lines) == 3 and lines[2].endswith("python -m tasks.embed IMAGES")
    code = "\n".join(line.strip() for line in lines).replace(str(original), str(Path(__file__).parents[3]), 1)
    program = f"{code}\nimport torch\nassert encoder(torch.zeros(2, 1, 28, 28)).shape == (2, 16)"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "PYTHONPATH"))}
    tmp_path.chmod(0o555)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.fault("F77")
def test_the_lines_name_the_store_without_secrets(original, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first, second = loading.load_lines(original, "ssl-my-data-set")
    assert f'"{original}"' in first
    assert second == f'encoder = load("models:/ssl-my-data-set@champion", store="{settings.store_uri(original)}")'
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert loading.load_lines(original, "x")[1].endswith('store="http://host:5000")')
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@host:5000")
    lines = loading.load_lines(original, "x")
    assert "host:5000" in lines[1] and "secret" not in "".join(lines) and "store=" not in lines[1]


def test_a_folder_of_the_project_loads_without_a_registry_as_the_registered_encoder(original, monkeypatch):
    images = torch.from_numpy(textured_images(3, 1, 28))
    expected = registry.load().module(images)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert torch.equal(front.load("out/encoders/simclr-0")(images), expected)
    assert torch.equal(front.load(original / "out/encoders/simclr-0")(images), expected)
    monkeypatch.setenv("HOME", str(original))
    assert torch.equal(front.load("~/out/encoders/simclr-0")(images), expected)
    assert torch.equal(front.load(made.stored_folder(original))(images), expected)
    with pytest.raises(UsageError, match="neither a folder nor"):
        front.load("out/encoders/simclr-9")


# ------------------------------------------------------------------ data and names


def other_images(root: Path, license: str) -> str:
    """Other images in data/prepared, under the same name; their hash."""
    prepared = root / "data/prepared"
    files.write_json(prepared / "meta.json", files.read_json(prepared / "meta.json") | {"license": license})
    files.seal(prepared)
    digest = files.sha256(prepared / files.MANIFEST)
    for facts in root.glob("out/encoders/*/encoder.json"):
        files.write_json(facts, files.read_json(facts) | {"data_sha256": digest})
        files.seal(facts.parent)
    return digest


def test_two_folders_of_one_name_never_share_a_model(root):
    set_params(root, {"data": {"source": "folder", "path": "a/images"}})
    first = other_images(root, "of a")
    done = register(root, made.exporter)
    assert (
        done.wanted.model == f"ssl-example-{first[:8]}"
        and "data.name in params.yaml gives it a name that stays" in done.notes[0]
    )
    stored = registered.ask_file(root / "mlruns/mlflow.db", done.wanted.model)
    set_params(root, {"data": {"path": "b/images"}})
    other_images(root, "of b")
    made.write_encoder(root, "byol", holdout_linear_top1=0.99)
    again = register(root, made.exporter)
    assert again.wanted.model == registered_model(root) != done.wanted.model
    assert registered.ask_file(root / "mlruns/mlflow.db", done.wanted.model) == stored
    (note,) = again.notes
    assert done.wanted.model in note and "data.name" in note


def test_a_given_name_stays_when_images_come_and_the_change_is_said(root):
    set_params(root, {"data": {"source": "folder", "name": "hand signs"}})
    prepared = root / "data/prepared/meta.json"
    files.write_json(prepared, files.read_json(prepared) | {"name": "hand signs"})
    first = other_images(root, "of week 1")
    done = register(root, made.exporter)
    assert done.wanted.model == "ssl-hand-signs-258898" and not done.notes
    second = other_images(root, "of week 2")
    for number, method in enumerate(made.METHODS):
        facts = files.read_json(root / f"out/encoders/{method}-0/encoder.json")
        made.write_encoder(root, method, weights=1 + number)
        files.write_json(root / f"out/encoders/{method}-0/encoder.json", facts)
        files.seal(root / f"out/encoders/{method}-0")
    again = register(root, made.exporter)
    assert again.wanted.model == "ssl-hand-signs-258898" and set(again.versions.values()) == {4, 5, 6}
    (note,) = again.notes
    assert first[:8] not in note and second[:8] in note and note.endswith(": 1 to 3")
    assert registry.load("models:/ssl-hand-signs-258898@champion").config["training"]["data_sha256"] == second


def test_another_layer_of_an_encoder_is_another_version(tmp_path):
    (tmp_path / "model").write_text("weights")
    files.seal(tmp_path)
    entry = Entry("simclr-0", tmp_path, "block4", "f" * 64, "its card", {})
    assert package_key(entry) == package_key(dataclasses.replace(entry, card="another card"))
    assert package_key(entry) != package_key(dataclasses.replace(entry, layer="block3"))


def test_the_alias_of_a_task_goes_with_the_task_and_stays_while_its_encoder_has_no_result(root):
    store = registry.Registry(Tracker(root.resolve()), "ssl-example")
    store.client.set_registered_model_alias("ssl-example", "champion-tiles", "1")
    store.register([], {}, kept=["champion-tiles"])
    assert "champion-tiles" in store.named()
    store.register([], {})
    assert "champion-tiles" not in store.named() and "champion" in store.named()
