"""prefect.yaml for real: a server, a worker, deployments, a schedule that fires, a cancellation and the watcher."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.runtime.files import listing_digest
from tests.conftest import ROOT
from tests.support import prefect_server as server
from tests.support import tiny_graph as tiny
from tests.support.forked import Forked
from tests.support.processes import alive, wait_for

POLL = 0.3  # seconds between two questions to the server
POOLS = {"nightly": "cpu", "weekly": "cpu", "method": "cpu", "weekly-gpu": "gpu", "method-gpu": "gpu", "watch": "cpu"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A deployed project with a worker for the pool ``cpu``."""
    project = tiny.make(tmp_path_factory.mktemp("deployed") / "p")
    (project / "flows").symlink_to(ROOT / "flows")
    named = re.search(r"^#   for pool in ([a-z ]+);", (ROOT / "prefect.yaml").read_text(), re.M)
    assert named  # the file's own instructions, as a user follows them
    pools = [f"work-pool create {pool} --type process --overwrite" for pool in named[1].split()]
    server.cli(project, *pools, "--no-prompt deploy --all")
    for row in server.api("deployments/filter"):  # their own times stay out of the way
        server.patch(f"deployments/{row['id']}", paused=True)
    start_worker(project)
    yield project
    tiny.end_all(project)


workers: list[tiny.Started] = []


def start_worker(project: Path) -> None:
    workers.append(tiny.start(project, "prefect", "worker", "start", "--pool", "cpu"))


def flow_run(flow_run_id: str) -> dict[str, object]:
    return dict(server.api("flow_runs/filter", flow_runs={"id": {"any_": [flow_run_id]}})[0])


def ended(flow_run_id: str) -> dict[str, object]:
    """The flow run, when it has ended."""

    def final() -> dict[str, object] | None:
        row = flow_run(flow_run_id)
        return row if row["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    return dict(wait_for(final, 180, POLL))


def deployment(name: str) -> dict[str, object]:
    return next(row for row in server.api("deployments/filter") if row["name"] == name)


def start_run(name: str, **parameters: object) -> str:
    return str(
        server.api(f"deployments/{deployment(name)['id']}/create_flow_run", parameters=parameters, state={"type": "SCHEDULED"})[
            "id"
        ]
    )


def test_all_deployments_exist_with_pool_schedule_and_policy(project: Path) -> None:
    rows = {row["name"]: row for row in server.api("deployments/filter")}
    machines = rows.pop("machines")
    assert machines["work_pool_name"] == "machines" and str(project) not in str(machines["pull_steps"])
    assert {name: row["work_pool_name"] for name, row in rows.items()} == POOLS
    declared = {d["name"]: d for d in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    for name, row in rows.items():
        assert row["concurrency_options"]["collision_strategy"] == declared[name]["concurrency_limit"]["collision_strategy"]
        assert [s["schedule"]["cron"] for s in row["schedules"]] == [s["cron"] for s in declared[name].get("schedules", [])]
        assert str(project) in str(row["pull_steps"])
    assert [s["active"] for s in rows["weekly-gpu"]["schedules"]] == [False]
    assert list(declared).index("watch") < list(declared).index("weekly-gpu")  # what needs no GPU is there first


def test_a_method_on_demand_a_schedule_that_fires_overlapping_runs_and_a_cancellation(project: Path) -> None:
    server.cli(project, """deployment run ssl-pipeline/method --param 'methods=["byol"]' --watch""")
    assert sorted(tiny.computed(project)) == ["evaluate@byol-0", "prepare", "pretrain@byol-0", "report"]

    tiny.control(project, pretrain_simclr_0={"seconds": 600})  # until it is stopped, however slow the machine is
    cancelled = start_run("nightly", parallelism=1)
    stage = tiny.running_pid(project, "pretrain@simclr-0")
    nightly = str(deployment("nightly")["id"])
    server.patch(f"deployments/{nightly}", paused=False)
    fire_soon(nightly)
    ticks = [start_run("watch") for _ in range(2)]
    fired = str(wait_for(lambda: waiting(nightly), 400, POLL))
    assert sorted(str(ended(tick)["state_type"]) for tick in ticks) == ["CANCELLED", "COMPLETED"]
    tiny.control(project)  # for the run that waits and begins as soon as the other one has ended
    start = time.monotonic()
    server.cli(project, f"flow-run cancel {cancelled}")
    asked = time.monotonic()
    wait_for(lambda: not alive(stage), 20)
    assert time.monotonic() - asked < 10, f"{time.monotonic() - start:.1f} s with the command itself"
    assert ended(cancelled)["state_type"] == "CANCELLED"
    row = ended(fired)
    server.patch(f"deployments/{nightly}", paused=True)
    assert row["state_type"] == "COMPLETED" and row["auto_scheduled"]
    assert server.task_states(fired)["pretrain@byol-0"] == "Unchanged" and tiny.is_clean(project)


@pytest.mark.stress
def test_a_run_of_a_killed_worker_crashes_and_the_next_one_goes_on(project: Path) -> None:
    """Its output is a pipe that the worker read: it ends at the next line it prints, here that of the stage's end."""
    slow = {"seconds": 4}
    tiny.control(project, pretrain_simclr_0=slow, pretrain_byol_0=slow)
    for method in ("simclr", "byol"):
        tiny.set_lr(project, method, 3)
    before = len(tiny.computed(project))
    broken = start_run("nightly", parallelism=1)
    wait_for(lambda: [name for name in tiny.computed(project)[before:] if name.startswith("pretrain")])
    workers[-1].kill()
    assert ended(broken)["state_type"] == "CRASHED"
    wait_for(lambda: not tiny.stages_alive(project), 10)
    assert "evaluate" not in str(tiny.computed(project)[before:])
    tiny.control(project)
    start_worker(project)
    assert ended(start_run("nightly"))["state_type"] == "COMPLETED" and tiny.is_clean(project)
    assert tiny.computed(project)[before:].count("prepare") <= 1


def fire_soon(deployment_id: str) -> None:
    """A schedule that fires in a moment or, where the scheduler comes by later than that, within three minutes."""
    soon = {"schedule": {"interval": 180, "anchor_date": server.now(3)}, "active": True, "slug": "soon"}
    server.api(f"deployments/{deployment_id}/schedules", json=[soon])


def scheduled(deployment_id: str) -> list[dict[str, Any]]:
    rows = server.api("flow_runs/filter", deployments={"id": {"any_": [deployment_id]}})
    return [row for row in rows if row["auto_scheduled"]]


def waiting(deployment_id: str) -> str | None:
    """The run that the new schedule made, once it waits for the one that runs."""
    return next((row["id"] for row in scheduled(deployment_id) if row["state_name"] == "AwaitingConcurrencySlot"), None)


LOOKS = """
import json
from prefect import get_client
from prefect.states import Failed
from pathlib import Path
from flows import watch as looks
from flows.watch import watch

looks.STATE = Path(".ssl/looks.json")  # not that of a tick of the worker's

def fail():
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(json.load(looks.STATE.open())["started"], Failed(), force=True)

for look in range(9):
    if look in (1, 2):
        open(f"images/{look}.png", "w").close()
    if look > 4:
        fail()
    print("saw", watch(deployment="ssl-pipeline/method-gpu", return_state=True).name)  # no worker takes it
"""


def test_the_watcher_waits_until_all_images_arrived_and_starts_one_run_and_again_one_that_failed(project: Path) -> None:
    done = Forked(project, ("-c", LOOKS), server.prefect_environment())
    said, noted = done.communicate(180)
    seen = [line.split()[1] for line in said.splitlines() if line.startswith("saw ")]
    assert seen == ["First", "Arriving", "Arriving", "Changed", "Same", "Again", "Again", "Same", "Same"], noted
    assert noted.count("new images in images: started") == 1
    assert noted.count("the run failed that was started for images: started") == 2


def test_the_listing_sees_names_sizes_and_times_but_follows_no_link(tmp_path: Path) -> None:
    from flows.watch import news

    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "a.png").write_bytes(b"1")
    (tmp_path / "loop").symlink_to(tmp_path)
    first = listing_digest(tmp_path)
    assert listing_digest(tmp_path) == first
    (tmp_path / "class" / "a.png").write_bytes(b"12")
    second = listing_digest(tmp_path)
    (tmp_path / "class" / "a.png").rename(tmp_path / "class" / "b.png")
    assert len({first, second, listing_digest(tmp_path)}) == 3
    assert (
        news(second, {"run": first, "seen": second}) == "changed" and news(second, {"run": first, "seen": first}) == "arriving"
    )


def test_the_kubernetes_pool_makes_jobs_with_gpus_and_secrets_and_refuses_nonsense(project: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.workers.base import BaseJobConfiguration

    class Job(BaseJobConfiguration):
        """What a Kubernetes worker makes of the template, without a cluster."""

        job_manifest: dict[str, Any]

    template = ROOT / "deploy/kubernetes-pool.json"
    deploy = "--no-prompt deploy --name machines --pool cluster --job-variable image=ssl-pipeline:1"
    create = f"work-pool create cluster --type kubernetes --base-job-template {template}"
    server.cli(project, create, f"{deploy} --job-variable gpus=2")
    asked = next(row for row in server.api("deployments/filter") if row["work_pool_name"] == "cluster")["job_variables"]
    values = {**asked, "name": "pretrain-byol-0", "command": "prefect flow-run execute"}
    with temporary_settings({PREFECT_API_URL: server.prefect_environment()["PREFECT_API_URL"]}):  # else it starts a server
        job = asyncio.run(Job.from_template_and_values(json.loads(template.read_text()), values)).job_manifest
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "ssl-pipeline:1" and container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert container["envFrom"] == [{"secretRef": {"name": "ssl-pipeline"}}] and container["env"]["DO_NOT_TRACK"] == "true"
    assert container["args"] == values["command"] and "{{" not in json.dumps(job)
    code, log = tiny.finish(project, "prefect", *deploy.split(), "--job-variable", "gpus=many")
    assert code != 0 and "'many' does not match" in log.replace("\\", ""), log
