"""A folder of images without a single label, through every stage: what is told, what is chosen and what is registered."""

import json
import signal

import pytest
from PIL import Image

from tasks.evaluate.__main__ import command as evaluate
from tasks.prepare import __main__ as preparation
from tasks.pretrain.__main__ import command as pretrain
from tasks.register.registration import register
from tasks.register.registry import load
from tasks.report.__main__ import body as report
from tasks.results import load_results
from tasks.runtime import files
from tasks.runtime.settings import DEFAULTS
from tasks.runtime.stage import Stage, main
from tasks.runtime.stage_name import StageName
from tasks.tracking.registered import REGISTRATION
from tests.conftest import textured_images
from tests.support.project import TINY, copy_project, set_params

METHODS = ("simclr", "rotation", "random_init")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The stages up to the report, run in this process on 48 loose files."""
    root = copy_project(tmp_path / "p")
    pictures = tmp_path / "my photos"
    pictures.mkdir()
    for number, picture in enumerate(textured_images(48, 1, 20)[:, 0]):
        Image.fromarray(picture).save(pictures / f"{number}.png")
    data = {"source": "folder", "path": str(pictures), "image_size": 16}
    set_params(root, TINY | {"run": {"methods": list(METHODS), "seeds": [0]}, "data": data})
    set_params(root, {"train": {"epochs": 1}})
    monkeypatch.chdir(root)
    for name, value in DEFAULTS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    main(preparation.make)
    for method in METHODS:
        pretrain([method, "0"])
        evaluate([method, "0"])
    main(lambda: (Stage(StageName("report")), report))
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return root


def test_label_free_numbers_alone_make_a_table_a_report_a_champion_and_an_encoder_to_load(project):
    results, missing = load_results(project)
    assert not missing
    assert not {"knn_top1", "linear_top1", "holdout_linear_top1"} & {k for r in results for k in r.metrics.to_json()}
    best = max((r for r in results if not r.is_baseline), key=lambda r: r.metrics.health.effective_rank)
    table = (project / "reports/leaderboard.md").read_text()
    assert "Without labels: sorted by effective rank" in table and "linear" not in table.split("\n\n")[1]
    assert "There are no labels to score with" in (project / "reports/report.html").read_text()
    events = [json.loads(line) for line in (project / "reports/journal.jsonl").read_text().splitlines()]
    assert events[0]["run"]["tags"]["champion"] == best.name
    found = register(project)
    assert found.wanted.aliases == {"champion": best.name, "simclr": "simclr-0", "rotation": "rotation-0"}
    found.wanted.write(project / REGISTRATION)
    images = files.sha256(project / "data/prepared" / files.MANIFEST)[:8]
    assert load().uri == f"models:/ssl-my-photos-{images}/{found.versions[best.name]}"
