"""Damage in what one stage has written and another reads: it is named, nothing wrong comes of it, and one command mends it."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.doctor import Doctor
from tasks.dvc import graph
from tasks.dvc.outcome import Fate
from tasks.dvc.runner import Runner
from tasks.report import findings, illustrations
from tasks.results import load_results
from tasks.runtime import files, recorded, saved_encoder
from tasks.runtime.errors import IntegrityError
from tasks.runtime.stage import Stage
from tasks.runtime.stage_name import StageName
from tasks.tracking.records import first_tags, headline, records
from tests.support import damage
from tests.support import tiny_graph as tiny
from tests.support.project import command, set_params

METRICS = "out/metrics/byol-0.json"
READ = [
    METRICS,
    "out/predictions/byol-0.csv",
    "out/history/byol-0.csv",
    "out/journal/byol-0.jsonl",
    "out/journal/evaluate-byol-0.jsonl",
    "out/features/byol-0.safetensors",
    "out/encoders/byol-0/encoder.json",
    "out/encoders/byol-0/views.png",
    "out/encoders/byol-0/MANIFEST.json",
    "data/prepared/test_labels.npy",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damage.recorded_project(tmp_path_factory.mktemp("recorded") / "p")


@pytest.fixture
def project(whole: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same project for all; what a test changes of its results is put back."""
    before = {
        path: path.read_bytes() for top in ("out", "data/prepared") for path in (whole / top).rglob("*") if path.is_file()
    }
    tracked = {path: path.read_bytes() for path in (whole / "dvc.lock", whole / "params.yaml")}
    monkeypatch.chdir(whole)
    yield whole
    for path, data in tracked.items():
        path.write_bytes(data)
    for top in ("out", "data/prepared"):
        for path in [p for p in (whole / top).rglob("*") if p.is_file() and p not in before]:
            path.unlink()
    for path, data in before.items():
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def report() -> str:
    """What the stage ``report`` reads, verified."""
    return Stage(StageName("report")).fingerprint


@pytest.mark.parametrize("name", READ)
@pytest.mark.fault("F25")
def test_one_bit_in_any_file_that_a_later_stage_reads_is_named(project: Path, name: str) -> None:
    report()
    damage.flip(project / name)
    with pytest.raises(IntegrityError, match=r"run python -m tasks\.doctor") as caught:
        report()
    assert name in str(caught.value) or (name.endswith(".json") and "byol-0" in str(caught.value))


def empty_manifest(directory: Path) -> None:
    files.write_json(directory / files.MANIFEST, {"schema": 1, "files": {}})


SEALED: dict[str, Callable[[Path], object]] = {
    "a file more": lambda d: (d / "more.bin").write_bytes(b"x"),
    "a file less": lambda d: (d / "views.png").unlink(),
    "a manifest that lists none": empty_manifest,
    "no manifest": lambda d: (d / files.MANIFEST).unlink(),
    "a manifest of another version": lambda d: rewrite_manifest(d, schema=2),
    "a manifest of no files": lambda d: rewrite_manifest(d, files=[]),
    "a manifest with a blank more": lambda d: damage.rewrite(d / files.MANIFEST, (d / files.MANIFEST).read_bytes() + b" "),
}


def rewrite_manifest(directory: Path, **changes: object) -> None:
    values = json.loads((directory / files.MANIFEST).read_text())
    files.write_json(directory / files.MANIFEST, values | changes)


@pytest.mark.parametrize("kind", SEALED)
@pytest.mark.fault("F25")
def test_a_sealed_directory_holds_what_its_manifest_lists_and_nothing_else(project: Path, kind: str) -> None:
    SEALED[kind](project / "out/encoders/byol-0")
    with pytest.raises(IntegrityError, match="out/encoders/byol-0"):
        report()
    with pytest.raises(IntegrityError, match="out/encoders/byol-0"):
        saved_encoder.load(project / "out/encoders/byol-0")


@pytest.mark.fault("F25")
def test_a_changed_digit_never_reaches_the_table_or_the_report(project: Path) -> None:
    text = (project / METRICS).read_text()
    better = text.replace('"holdout_linear_top1": 0.', '"holdout_linear_top1": 0.9', 1).replace(" ", "", 1)
    assert better != text
    damage.rewrite(project / METRICS, better.encode())
    for module in ("tasks.leaderboard", "tasks.report"):
        done = command(project, module)
        assert done.returncode == 6 and done.stdout == "", done.stderr
        assert len(done.stderr.splitlines()) == 1 and f"{METRICS} is not the one that dvc.lock records" in done.stderr
    assert not (project / "reports").exists()


def cached(project: Path, data: bytes) -> Path:
    """The object of DVC's cache that holds these bytes."""
    md5 = hashlib.md5(data).hexdigest()
    return project / f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}"


def mend(project: Path) -> list[str]:
    """What ``make doctor`` does about outputs; the lines it says."""
    doctor = Doctor(project)
    for check in (doctor.stages, doctor.outputs, doctor.cache):
        check()
    return doctor.fixed


def test_doctor_removes_what_readers_refuse_and_nothing_else(project: Path) -> None:
    """In the workspace and in DVC's cache at once: what came back from there was as bad as what it replaced."""
    names = ["out/metrics/byol-0.json", "out/history/byol-0.csv", "out/encoders/simclr-0/views.png"]
    assert tiny.dvc(project, "status").returncode == 0  # DVC knows the files' times
    objects = [cached(project, (project / name).read_bytes()) for name in names]
    for damaged in (*objects, *map(project.joinpath, names)):
        damage.flip(damaged)
    before = {path for path in project.rglob("out/*/*") if path.name != ".gitignore"}
    said = mend(project)
    gone = {project / name for name in ("out/metrics/byol-0.json", "out/history/byol-0.csv", "out/encoders/simclr-0")}
    assert before - {path for path in before if path.exists()} == gone
    assert sorted(said) == sorted(
        f"{out.relative_to(project)} was damaged and is removed, so that it is made again" for out in gone
    )
    assert not any(damaged.exists() for damaged in objects), "dvc repro would bring it back"
    report()  # what is left is sound


def test_doctor_mends_what_a_method_left_that_is_compared_no_more(project: Path) -> None:
    """Nobody reads it, so the report is made; the list may grow again, so it is mended all the same."""
    set_params(project, {"run": {"methods": ["simclr"]}})
    damage.flip(project / METRICS)
    report()
    assert f"{METRICS} was damaged and is removed, so that it is made again" in mend(project)
    report()


@pytest.mark.fault("F27")
def test_what_dvc_restores_damaged_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``make run`` and the flow do so at once; after plain ``dvc repro``, the doctor and the same command."""
    project, stage = tiny.make(tmp_path / "p"), "evaluate@byol-0"
    assert tiny.dvc(project, "repro", stage).returncode == 0
    monkeypatch.chdir(project)
    graph.remember(project, [stage])
    path = project / METRICS
    truth = path.read_bytes()
    stored, worse = cached(project, truth), truth.replace(b"1", b"9")
    assert worse != truth
    damage.rewrite(stored, worse)
    path.unlink()
    said: list[str] = []
    outcome = Runner(project).run(stage, said.extend)
    graph.remember(project, [stage])
    assert (outcome.code, outcome.how) == (0, Fate.RAN) and path.read_bytes() == stored.read_bytes() == truth
    assert any(f"{METRICS} was damaged" in line for line in said)

    damage.rewrite(stored, worse)
    path.unlink()
    assert tiny.dvc(project, "repro", "-s", stage).returncode == 0 and path.read_bytes() == worse
    assert any(METRICS in line for line in mend(project))
    assert tiny.dvc(project, "repro", "-s", stage).returncode == 0 and path.read_bytes() == truth


@pytest.mark.fault("F27")
def test_doctor_checks_every_object_of_the_cache(project: Path) -> None:
    stored = next(project.glob(".dvc/cache/files/md5/??/*"))
    damage.flip(stored)
    assert f"removed {stored.relative_to(project)} from DVC's cache: its content is damaged" in mend(project)


def fuzz(project: Path, names: list[str], rounds: int, seed: int) -> None:
    """A mutation of a recorded or sealed file is refused by its readers, in one line, or concerns nothing that they read."""
    chance, truth = random.Random(seed), repr(load_results(project))
    for number in range(rounds):
        path = project / names[number % len(names)]
        data = path.read_bytes()
        path.write_bytes(damage.mutated(data, chance))
        try:
            assert repr(load_results(project)) == truth, f"{path}: accepted in round {number} of seed {seed}"
        except IntegrityError as error:
            assert "\n" not in str(error)
        finally:
            path.write_bytes(data)


def parse_all(project: Path) -> None:
    """The readers behind the seals: what they refuse, they refuse as damage."""
    read: list[Callable[[], object]] = [
        lambda: load_results(project),
        lambda: illustrations.read_history(project, "byol-0"),
        lambda: findings.read_predictions(project, load_results(project)[0][1]),
        lambda: saved_encoder.load(project / "out/encoders/byol-0"),
    ]
    for reader in read:
        try:
            reader()
        except IntegrityError as error:
            assert str(project) in str(error)
    for record in records(project, []):
        first_tags(record), headline(record), record.files(project)


def fuzz_parsers(project: Path, rounds: int, seed: int) -> None:
    """Without dvc.lock, and with seals made anew over the damage: no traceback."""
    chance = random.Random(seed)
    names = [name for name in READ if not name.endswith((".npy", ".png", ".safetensors", "MANIFEST.json"))]
    encoder = project / "out/encoders/byol-0"
    (project / "dvc.lock").unlink()
    for number in range(rounds):
        path = project / names[number % len(names)]
        data, manifest = path.read_bytes(), (encoder / files.MANIFEST).read_bytes()
        path.write_bytes(damage.mutated(data, chance))
        if path.parent == encoder:
            files.seal(encoder)
        try:
            parse_all(project)
        except Exception as error:
            error.add_note(f"{path}, round {number} of seed {seed}: {path.read_bytes()[:3000]!r}")
            raise
        finally:
            path.write_bytes(data)
            (encoder / files.MANIFEST).write_bytes(manifest)


SHOWN = [METRICS, "out/journal/byol-0.jsonl", "out/encoders/byol-0/encoder.json", "out/encoders/byol-0/MANIFEST.json"]


@pytest.mark.fault("F25", "F26")
def test_no_mutation_of_what_tables_show_is_accepted(project: Path) -> None:
    fuzz(project, SHOWN, 80, seed=0)


@pytest.mark.fault("F76")
def test_mutations_that_pass_the_seals_are_damage_and_no_traceback(project: Path) -> None:
    fuzz_parsers(project, 70, seed=1)


@pytest.mark.stress
@pytest.mark.fault("F25", "F76")
def test_thousands_of_mutations(project: Path) -> None:
    fuzz(project, SHOWN, 3000, seed=2)
    fuzz_parsers(project, 6000, seed=3)


@pytest.mark.stress
@pytest.mark.parametrize("name", READ)
def test_hundreds_of_mutations_of_each_file_stop_the_stage(project: Path, name: str) -> None:
    chance, path = random.Random(4), project / name
    data = path.read_bytes()
    for _ in range(200):
        damage.rewrite(path, damage.mutated(data, chance))
        with pytest.raises(IntegrityError):
            report()


def test_the_digest_of_a_directory_is_dvcs(project: Path) -> None:
    outputs = recorded.outputs(project)
    assert outputs
    for out, md5 in outputs.items():
        assert recorded.digest(out) == md5, out
