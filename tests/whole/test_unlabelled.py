"""A folder of images without a single label, through every stage: what is told, what is chosen and what is registered."""

import json
import signal

import pytest
from PIL import Image

from tasks import few_labels, label
from tasks.choice import champion
from tasks.evaluate.__main__ import command as evaluate
from tasks.prepare import __main__ as preparation
from tasks.pretrain.__main__ import command as pretrain
from tasks.register.registration import register
from tasks.register.registry import load
from tasks.report.__main__ import body as report
from tasks.results import load_results
from tasks.runtime import dataset, files
from tasks.runtime.errors import UsageError
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


def test_label_free_numbers_make_a_table_and_a_report_and_a_few_labels_a_champion_to_load(project):
    results, missing = load_results(project)
    assert not missing
    assert not {"knn_top1", "linear_top1", "holdout_linear_top1"} & {k for r in results for k in r.metrics.to_json()}
    table = (project / "reports/leaderboard.md").read_text()
    assert "none is named champion" in table and "linear" not in table.split("\n\n")[2]
    assert "There are no labels to score with" in (project / "reports/report.html").read_text()
    events = [json.loads(line) for line in (project / "reports/journal.jsonl").read_text().splitlines()]
    assert events[0]["run"]["tags"]["champion"] == "none"
    found = register(project)
    assert found.wanted.aliases == {"simclr": "simclr-0", "rotation": "rotation-0"}
    found.wanted.write(project / REGISTRATION)
    images = files.sha256(project / "data/prepared" / files.MANIFEST)[:8]
    assert load(f"models:/ssl-my-photos-{images}@simclr").uri == f"models:/ssl-my-photos-{images}/{found.versions['simclr-0']}"
    with pytest.raises(UsageError, match=r"tasks\.label"):
        load()

    names = label_by_brightness(project)
    label.take(project, few_labels.FILE)
    best = champion(load_results(project)[0])
    assert best is not None and best.few is not None and best.few.labels == len(names) == 20
    found = register(project)
    assert found.wanted.aliases == {"champion": best.name, "simclr": "simclr-0", "rotation": "rotation-0"}
    found.wanted.write(project / REGISTRATION)
    assert load().uri == f"models:/ssl-my-photos-{images}/{found.versions[best.name]}"


def label_by_brightness(project):
    """Have images picked and label them as bright or dark; their names."""
    label.pick(project, 20)
    path, images = project / few_labels.FILE, dataset.load(project / dataset.PREPARED).train_images
    rows = {name: row for row, name in enumerate(few_labels.pool(project).names)}
    head, *lines = path.read_text().splitlines()
    names = [line.split(",")[1] for line in lines]
    means = {name: images[rows[name]].mean() for name in names}
    middle = sorted(means.values())[len(means) // 2]
    brightness = {name: "bright" if mean >= middle else "dark" for name, mean in means.items()}
    filled = [line.replace(",,", f",{brightness[name]},") for line, name in zip(lines, names, strict=True)]
    path.write_text("\n".join([head, *filled]) + "\n")
    return names
