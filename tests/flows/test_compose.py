"""compose.yaml against Compose's schema, and its commands against the programs: there is no container engine to run it."""

import shlex
import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.slow
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PUBLISHED = {address.rpartition(":")[0] for service in SERVICES.values() for address in service.get("ports", ())}


@pytest.mark.parametrize(
    "schema, file", [("compose-spec", "compose.yaml"), ("github-workflows", ".github/workflows/ci.yml")], ids=str
)
def test_the_file_has_the_published_form(schema: str, file: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_mlflow_with_postgresql_prefect_and_one_worker_answer_this_machine_alone() -> None:
    assert set(SERVICES) == {"postgres", "prefect", "mlflow", "worker"}
    assert {"127.0.0.1:4200", "127.0.0.1:5000"} == PUBLISHED
    assert SERVICES["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"] == "postgresql://mlflow@postgres/mlflow"
    assert SERVICES["postgres"]["environment"]["POSTGRES_USER"] == "mlflow"
    assert SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")  # none of ours
    assert ".env" in (ROOT / ".dockerignore").read_text().split() and ".env" in (ROOT / ".gitignore").read_text().split()


def test_addresses_are_those_of_the_published_ports() -> None:
    environments = [service["environment"] for service in SERVICES.values()]
    addresses = {value for each in environments for value in each.values() if value.startswith("http://") and "," not in value}
    assert addresses and {urlsplit(address).netloc for address in addresses} == PUBLISHED
    assert {name for name, service in SERVICES.items() if service.get("network_mode") == "service:prefect"} == {
        "mlflow",
        "worker",
    }


def test_images_are_built_from_the_projects_file_and_volumes_are_declared() -> None:
    for name, service in SERVICES.items():
        assert name == "postgres" or service["build"] == {"context": ".", "dockerfile": "deploy/Dockerfile"}
        kept = {volume.partition(":")[0] for volume in service["volumes"]}
        assert kept <= {*COMPOSE["volumes"], "."}
    image = (ROOT / "deploy/Dockerfile").read_text()
    assert "psycopg2-binary" in image and "--create-home --uid 1000 ssl" in image


def test_the_programs_know_their_commands() -> None:
    from mlflow.cli import server as mlflow_server

    program, verb, *words = shlex.split(SERVICES["mlflow"]["command"])
    known = {option for parameter in mlflow_server.params for option in parameter.opts}
    assert (program, verb) == ("mlflow", "server") and {word for word in words if word.startswith("--")} <= known
    assert "MLFLOW_BACKEND_STORE_URI" in {parameter.envvar for parameter in mlflow_server.params}
    factory = shlex.split(SERVICES["prefect"]["command"])
    assert factory[:3] == ["uvicorn", "--factory", "flows.server:create_app"]
    from flows import server

    assert callable(server.create_app)


def test_the_worker_serves_deployments_of_the_pool_that_it_makes() -> None:
    script = SERVICES["worker"]["command"][-1]
    deployments = {each["name"]: each for each in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    words = shlex.split(script)
    named = [words[at + 1] for at, word in enumerate(words) if word == "--name"]
    assert {deployments[name]["work_pool"]["name"] for name in named} == {"cpu"}
    assert "work-pool create cpu" in script and "worker start --pool cpu" in script
