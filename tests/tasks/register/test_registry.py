"""Registered encoders load anywhere, and a registration is all or nothing."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_core.engine.health import effective_rank
from tasks import leaderboard
from tasks.prepare.decoding import square
from tasks.register import export, modeling, registry
from tasks.register.registration import aliases, register
from tasks.results import Result, load_results, model_name
from tasks.runtime import files, saved_encoder
from tasks.runtime.errors import EnvironmentFault, IntegrityError, UsageError
from tasks.runtime.locks import try_lock
from tasks.tracking import loading
from tasks.tracking import registered as stored
from tasks.verdict import judge
from tests.conftest import textured_images
from tests.support import registered as made
from tests.support.example_results import metrics_of

LOAD_ANYWHERE = """
import json, shutil, sys
sys.modules["ssl_core"] = sys.modules["tasks"] = None  # importing the project fails
import mlflow, numpy as np, onnxruntime, torch, torchvision
from safetensors.torch import load_file
work, methods = sys.argv[1], json.loads(sys.argv[2])
sys.path.insert(0, work)
images = np.load(f"{work}/images.npy")
unit = (images / 255).astype(np.float32)
for method in methods:
    uri = f"models:/ssl-example@{method}"
    pyfunc, folder = mlflow.pyfunc.load_model(uri), mlflow.artifacts.download_artifacts(uri)
    shutil.copyfile(f"{folder}/modeling.py", f"{work}/modeling_{method}.py")  # as a user would, into a project
    module = __import__(f"modeling_{method}").load(folder)
    session, other = (onnxruntime.InferenceSession(f"{folder}/encoder{kind}.onnx") for kind in ("", "-float"))
    with torch.no_grad():
        found = {
            "module, uint8": module(torch.from_numpy(images)), "module, float": module(torch.from_numpy(unit)),
            "one image": torch.cat([module(torch.from_numpy(images[i:i + 1])) for i in range(len(images))]),
            "pyfunc, uint8": pyfunc.predict({"images": images})["features"],
            "onnx": session.run(None, {"images": images})[0], "onnx, float": other.run(None, {"images": unit})[0],
        }
    expected = np.load(f"{work}/{method}.npy")
    for name, features in found.items():
        error = abs(np.asarray(features) - expected).max() / max(1, abs(expected).max())
        assert error < 1e-5, (method, name, error)
    try:
        pyfunc.predict({"images": unit})
        raise AssertionError("pyfunc took floats for uint8")
    except mlflow.exceptions.MlflowException as error:
        assert "uint8" in str(error), error
    card = open(f"{folder}/MODEL_CARD.md").read()
    assert method in card
    if method == "moco":  # the card's own lines
        code = card[card.index("import torch\\n"):]
        space = {}
        exec(code[:code.index("```")].replace("FOLDER", folder), space)
        x = (torch.from_numpy(unit) - torch.tensor(module.mean)) / torch.tensor(module.std)
        with torch.no_grad():
            assert torch.allclose(space["net"].eval()(x), torch.from_numpy(expected), atol=1e-5)
print("loaded")
"""


def state(root):
    """The whole registry: models, versions, tags, aliases."""
    tables = ("registered_models", "model_versions", "model_version_tags", "registered_model_aliases")
    with contextlib.closing(sqlite3.connect(root / "mlruns/mlflow.db")) as store:
        return [sorted(map(str, store.execute(f"SELECT * FROM {t}").fetchall())) for t in tables]


def versions(root):
    """{alias: version number} and the numbers of all versions."""
    with contextlib.closing(sqlite3.connect(root / "mlruns/mlflow.db")) as store:
        named = dict(store.execute("SELECT alias, version FROM registered_model_aliases").fetchall())
        return named, sorted(n for (n,) in store.execute("SELECT version FROM model_versions").fetchall())


# ------------------------------------------------------------------ what is registered


def test_every_encoder_loads_where_this_project_is_not(root, tmp_path):
    methods = made.METHODS | made.LARGE
    made.write_project(root, methods)
    register(root, made.exporter)
    images = textured_images(3, 1, 28)
    np.save(tmp_path / "images.npy", images)
    for method, (_, layer, _, _) in methods.items():
        features = made.expected(root, f"{method}-0", layer, torch.from_numpy(images))
        np.save(tmp_path / f"{method}.npy", features.numpy())
    command = [sys.executable, "-I", "-c", LOAD_ANYWHERE, str(tmp_path), json.dumps(list(methods))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "loaded" in done.stdout, done.stderr


def test_an_image_of_any_size_is_prepared_as_prepare_would(original):
    from PIL import Image

    (large,) = textured_images(1, 1, 90)
    wide = np.ascontiguousarray(large[:, 10:70])
    small = np.array(square(Image.fromarray(wide[0]), 28))[None]
    module = registry.load().module
    features = [module(torch.from_numpy(x)[None]) for x in (wide, small)]
    assert torch.nn.functional.cosine_similarity(*features) > 0.9999


def test_the_champion_is_chosen_by_held_out_labels_and_never_by_the_test_split(original):
    results, _ = load_results(original)
    assert max(results, key=lambda r: r.get("linear_top1")).method == "byol"
    assert aliases(results) == {"champion": "simclr-0", "simclr": "simclr-0", "byol": "byol-0", "rotation": "rotation-0"}
    named, _ = versions(original)
    assert named["champion"] == named["simclr"]


def test_a_collapsed_encoder_gets_no_alias_and_a_baseline_neither(original):
    results, _ = load_results(original)
    others = [r for r in results if r.method != "simclr"]
    collapsed = [
        Result(metrics_of(r.method, verdict="collapsed", holdout_linear_top1=r.get("holdout_linear_top1"))) for r in results
    ]
    baseline = Result(metrics_of("random_init", holdout_linear_top1=0.99))
    best = next(r for r in collapsed if r.method == "simclr")
    assert aliases([best, *others, baseline]) == {"champion": "byol-0", "byol": "byol-0", "rotation": "rotation-0"}
    assert aliases(collapsed) == {}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"verdict": "collapsed"}, "Every encoder has collapsed."),
        ({"method": "random_init"}, "No method has been evaluated: list one in run.methods, or see why it failed."),
    ],
)
def test_where_there_is_no_champion_the_reason_is_said(root, change, why):
    first, *others = sorted((root / "out/metrics").glob("*.json"))
    found = json.loads(first.read_text()) | change
    for path in (first, *others):
        path.unlink()
    files.write_json(first.with_name(f"{found['method']}-0.json"), found)
    asked = root / "params.yaml"
    asked.write_text(re.sub(r"methods: \[.*\]", f"methods: [{found['method']}]", asked.read_text(), count=1))
    done = register(root, made.exporter)
    assert done.wanted.aliases == {} and done.unnamed == f"{why} simclr-0, which an earlier run named, stays."
    assert len(done.versions) == ("method" not in change)


def test_versions_carry_scores_hashes_license_and_their_run(original):
    from mlflow import MlflowClient

    client = MlflowClient()
    version = client.get_model_version_by_alias("ssl-example", "champion")
    tags = version.tags
    assert (tags["method"], tags["holdout_linear_top1"], tags["license"], tags["layer"]) == ("simclr", "0.8", "none", "block3")
    assert tags["encoder_sha256"] == files.sha256(original / "out/encoders/simclr-0" / saved_encoder.WEIGHTS)
    assert client.get_run(version.run_id).info.run_name == "simclr-0"
    assert "0.8000" in version.description


def test_everything_describes_the_delivered_layer(original):
    """Not the last block, which has twice as many features and another rank."""
    from mlflow import MlflowClient
    from mlflow.models import Model

    version, package = MlflowClient().get_model_version_by_alias("ssl-example", "champion"), made.stored()
    images = torch.from_numpy(textured_images(30, 1, 28))
    features = made.expected(original, "simclr-0", "block3", images).half().float()
    assert registry.load().module(images).shape == features.shape == (30, 16)
    assert (version.tags["dim"], version.tags["layer"]) == ("16", "block3")
    rank = effective_rank(features)
    assert float(version.tags["effective_rank"]) == pytest.approx(rank) and rank != 9.0  # the last block's, in the metrics
    card = (package / "MODEL_CARD.md").read_text()
    assert version.description == card and "features (B, 16), the pooled output of `block3`" in card
    assert f"effective rank of the features, on 30 training images | {rank:.4f}" in card
    signature = Model.load(package / "MLmodel").signature
    ((given,), (made_of,)) = signature.inputs.inputs, signature.outputs.inputs
    assert (given.name, given.type, given.shape) == ("images", np.dtype("uint8"), (-1, 1, -1, -1))
    assert (made_of.name, made_of.type, made_of.shape) == ("features", np.dtype("float32"), (-1, 16))
    example = Model.load(package / "MLmodel").load_input_example(str(package))
    assert example["images"].shape == (1, 1, 28, 28) and example["images"].dtype == np.uint8


def test_a_version_that_is_there_is_described_by_what_is_known_now(root):
    from mlflow import MlflowClient

    client, before = MlflowClient(), register(root, made.exporter).versions
    made.write_encoder(root, "byol", 0, holdout_linear_top1=0.6543)
    after = register(root, made.exporter).versions
    assert after == before
    version = client.get_model_version("ssl-example", str(after["byol-0"]))
    assert version.tags["holdout_linear_top1"] == "0.6543" and "0.6543" in version.description


def test_what_was_said_of_a_task_that_was_taken_out_is_taken_back_and_tags_of_others_stay(root):
    from mlflow import MlflowClient

    client, number = MlflowClient(), str(register(root, made.exporter).versions["byol-0"])
    for name in ("average_rank", "tiles.linear_top1", "reviewed"):
        client.set_model_version_tag("ssl-example", number, name, "2.5")
    register(root, made.exporter)
    tags = client.get_model_version("ssl-example", number).tags
    assert tags["reviewed"] == "2.5" and not {"average_rank", "tiles.linear_top1"} & tags.keys()


def test_an_encoder_that_cannot_be_exported_is_left_out_and_holds_nothing_up(root, monkeypatch, tmp_path):
    """As one whose training went wrong, in which rounding grows."""
    encoder, facts = saved_encoder.load(root / "out/encoders/simclr-0")
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.mul_(1e30)
    files.write_directory(tmp_path / "broken-0", lambda temp: saved_encoder.save(temp, encoder, facts))
    (tmp_path / "package").mkdir()
    with pytest.raises(export.Unfaithful, match=r"the features of its export \(module\) differ from its own by nan"):
        made.exporter.write(tmp_path / "broken-0", "block3", "", tmp_path / "package")

    def check(package: Path, module: modeling.ImageEncoder) -> None:
        if "simclr-0" in (package / "modeling.py").read_text():
            raise export.Unfaithful("they differ")

    monkeypatch.setattr(export, "check", check)
    made.write_encoder(root, "simclr", 0, weights=1)  # another training: what was registered before does not count
    done = register(root, made.exporter)
    assert done.left_out == {"simclr-0": "they differ"} and "simclr-0 would be, and cannot be exported." in done.unnamed
    assert set(done.versions) == set(done.wanted.packages) == {"byol-0", "rotation-0"}
    assert done.wanted.aliases == {"byol": "byol-0", "rotation": "rotation-0"}
    done.wanted.write(root / stored.REGISTRATION)
    assert stored.fault(root) is None and stored.load(root) == done.wanted
    assert "not registered, for its export does not give the same features" in loading.how_to_load(root, "simclr-0")


def test_every_seed_is_a_version_and_a_methods_alias_is_its_best_seed(root):
    methods = {name: made.METHODS[name] for name in ("simclr", "byol")}
    made.write_project(root, methods, seeds=(0, 1))
    made.write_encoder(root, "byol", 1, holdout_linear_top1=0.95)
    found = register(root, made.exporter).versions
    assert set(found) == {"simclr-0", "simclr-1", "byol-0", "byol-1"}
    named, numbers = versions(root)
    assert len(numbers) == len(made.METHODS) + 2
    assert named["byol"] == found["byol-1"]
    assert named["champion"] == named["simclr"] == found["simclr-0"]  # best on average; a tie goes to the first seed
    table = leaderboard.to_markdown(judge(load_results(root)[0]))
    assert "77.5 ± 24.7" in table and "mean ± standard deviation of 2 seeds" in table


@pytest.mark.parametrize(("layer", "index"), [("block1", 0), ("block4", 3)])
def test_the_evaluated_layer_is_found_by_its_name(layer, index):
    assert export.layer_index(layer, 4) == index


@pytest.mark.parametrize("layer", ["block5", "block0", "layer4", ""])
def test_an_unknown_layer_is_refused(layer):
    with pytest.raises(IntegrityError):
        export.layer_index(layer, 4)


# ------------------------------------------------------------------ the transaction


def test_registering_again_changes_nothing(root):
    register(root, made.exporter)  # which notes that this copy of the project has them
    before = state(root)
    register(root, made.exporter)
    assert state(root) == before


def test_a_new_evaluation_changes_scores_and_alias_but_makes_no_version(root):
    made.write_encoder(root, "byol", holdout_linear_top1=0.95)
    named, numbers = versions(root)
    register(root, made.exporter)
    after, same = versions(root)
    assert same == numbers
    assert after == named | {"champion": named["byol"]}


def test_the_champion_stays_while_it_has_no_result(root):
    """Its training failed: the second best is no better than it was yesterday, when it was not taken."""
    before, numbers = versions(root)
    (root / "out/metrics/simclr-0.json").unlink()
    done = register(root, made.exporter)
    assert versions(root) == (before, numbers) and before["champion"] == before["simclr"]
    assert done.held == {"champion": "simclr-0"} and done.unnamed is None and "champion" not in done.wanted.aliases
    done.wanted.write(root / stored.REGISTRATION)
    assert stored.fault(root) is None
    said = loading.how_to_load(root, "byol-0")
    assert said.startswith("best encoder (of this run; another one stays champion), byol-0:") and "@byol" in said
    made.write_encoder(root, "simclr", holdout_linear_top1=0.1)
    assert register(root, made.exporter).held == {} and versions(root)[0]["champion"] == before["byol"]


def die_at(point: str) -> None:
    """From now on a registration that comes to ``point`` ends as a crash would end it."""
    import mlflow.artifacts
    from mlflow import MlflowClient

    owner, name = {
        "upload": (MlflowClient, "log_artifacts"),
        "verify": (mlflow.artifacts, "download_artifacts"),
        "create": (MlflowClient, "create_model_version"),
        "created": (MlflowClient, "create_model_version"),
    }.get(point, (MlflowClient, "set_registered_model_alias"))
    real = getattr(owner, name)

    def call(*arguments, **keywords):
        if point == "created":
            real(*arguments, **keywords)
        if not point.startswith("alias ") or point.removeprefix("alias ") in arguments:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **keywords)

    setattr(owner, name, call)


@pytest.mark.parametrize("point", ["upload", "verify", "create", "created", "alias simclr", "alias champion"])
@pytest.mark.fault("F14", "F64")
def test_killed_at_any_point_the_aliases_stay_valid_and_the_same_command_finishes(root, point):
    before, numbers = versions(root)
    made.write_encoder(root, "simclr", weights=1)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            die_at(point)
            register(root, made.exporter)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    named, _ = versions(root)
    assert set(named) == set(before)
    assert named["champion"] == before["champion"]
    registry.load("models:/ssl-example@simclr")
    register(root, made.exporter)
    after, now = versions(root)
    new = max(now)
    assert now == [*numbers, new]
    assert after == before | {"champion": new, "simclr": new}
    assert not list((root / ".ssl").glob(".package-*"))


@pytest.mark.fault("F64")
def test_what_arrives_damaged_is_not_registered(root, monkeypatch):
    before = state(root)
    made.write_encoder(root, "simclr", weights=1)
    from mlflow import MlflowClient

    real = MlflowClient.log_artifacts

    def damaged(self, run_id, local_dir, artifact_path=None):
        real(self, run_id, local_dir, artifact_path)
        stored = Path(self.get_run(run_id).info.artifact_uri.removeprefix("file://")) / artifact_path / modeling.WEIGHTS
        flip(stored)

    monkeypatch.setattr(MlflowClient, "log_artifacts", damaged)
    with pytest.raises(IntegrityError):
        register(root, made.exporter)
    assert state(root) == before


@pytest.mark.fault("F65")
def test_an_encoder_that_is_not_the_evaluated_one_is_refused(root):
    before = state(root)
    metrics = root / "out/metrics/simclr-0.json"
    made.write_encoder(root, "simclr", weights=1, encoder_sha256="0" * 64)
    assert metrics.exists()
    with pytest.raises(IntegrityError, match="not the encoder that was evaluated"):
        register(root, made.exporter)
    assert state(root) == before


@pytest.mark.fault("F66")
def test_two_registrations_at_once_are_one_and_a_refusal(root):
    with (root / ".ssl/registry.lock").open("a+") as lock:
        assert try_lock(lock)
        with pytest.raises(EnvironmentFault, match="another process"):
            register(root, made.exporter)


# ------------------------------------------------------------------ loading


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("reseal", [False, True])
@pytest.mark.fault("F65")
def test_a_tampered_package_is_refused_before_anything_in_it_is_read(root, reseal):
    """Also when whoever changed it made the manifest fit."""
    package = made.stored()
    flip(package / modeling.WEIGHTS)
    if reseal:
        files.seal(package)
    with pytest.raises(IntegrityError):
        registry.load()


@pytest.mark.parametrize("uri", ["models:/ssl-nothing@champion", "models:/ssl-example@v", "ssl-example", "models:/a/b/c"])
def test_a_model_that_does_not_exist_is_a_line_that_helps(original, uri):
    with pytest.raises(UsageError, match="models:/"):
        registry.load(uri)


def test_without_a_registered_model_the_way_to_one_is_named(tmp_path, monkeypatch):
    made.enter(tmp_path, monkeypatch)
    with pytest.raises(UsageError, match="make run"):
        registry.load()


def test_model_names_hold_no_character_the_registry_refuses():
    assert model_name("my pictures/2024: é").startswith("ssl-my-pictures-2024-é-")
    assert model_name("fashion-mnist_12k.v2", "ab" * 32) == "ssl-fashion-mnist_12k.v2-abababab"
    assert len({model_name(name) for name in ("c", "c++", "c#", "!!!", "---")}) == 5
    assert model_name("a b").startswith("ssl-a-b-") and model_name("a-b") == "ssl-a-b"


def test_another_registry_beside_the_same_runs_leaves_the_first_one_whole(root, monkeypatch):
    register(root, made.exporter)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{root}/other.db")
    assert "other.db lacks" in str(stored.fault(root))
    register(root, made.exporter)
    assert stored.fault(root, whole=True) is None
    monkeypatch.delenv("MLFLOW_REGISTRY_URI")
    assert stored.fault(root, whole=True) is None and registry.load().module is not None
