"""The host's environment: proxies, users that the machine does not know, folders with a special sign in their path."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import requests.utils

from tasks.runtime import settings
from tasks.runtime.errors import EnvironmentFault, UsageError
from tasks.runtime.stage import state_directory
from tests.conftest import ROOT
from tests.support import tiny_graph as tiny
from tests.support.project import command

UNKNOWN = "54321"
AS_UNKNOWN = ["setpriv", "--reuid", UNKNOWN, "--regid", UNKNOWN, "--clear-groups"]
READS_ALL = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]  # this interpreter may lie in /root
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

WORK = """
import json, os, sys
from pathlib import Path
from tasks.runtime import settings
said = {}
for home in json.loads(sys.argv[1]):
    for name in ("HOME", "USER", "PREFECT_HOME", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)
    if home is not None:
        os.environ["HOME"] = home
    settings.apply()
    said[str(home)] = [os.environ.get(name) for name in ("USER", "HOME", "PREFECT_HOME", "XDG_CACHE_HOME")]
from prefect.settings import get_current_settings
import mlflow.tracking.context.default_context as context
from tasks.dvc import graph
stages = [stage.name for stage in graph.plan(Path.cwd())]
print(json.dumps([said, str(get_current_settings().home), context._get_user(), stages]))
"""


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project; what the settings put into the environment is taken back at the end."""
    for name in (*PROXIES, *map(str.upper, PROXIES), "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    for name in (*settings.DEFAULTS, "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_empty_variables_of_mlflow_count_as_unset(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.EMPTY_IS_UNSET:
        monkeypatch.setenv(name, " ")
    settings.apply()
    assert os.environ["MLFLOW_TRACKING_URI"] == settings.store_uri(clean)
    assert not {"MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME"} & set(os.environ)


def test_a_project_inside_another_one_of_dvc_is_its_own_and_an_experiment_s_copy_is_not(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, copy = clean / "inner", clean / ".dvc" / "tmp" / "exps" / "tmpx"
    for folder, expected in ((clean, clean), (inner, inner), (copy, clean)):
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("DVC_ROOT", str(clean))
        assert settings.project_root() == expected and state_directory() == expected / ".ssl"
    monkeypatch.delenv("DVC_ROOT")
    assert settings.project_root() == copy


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MLFLOW_TRACKING_URI", "http://[::1", "MLFLOW_TRACKING_URI is no address: Invalid IPv6 URL"),
        ("MLFLOW_REGISTRY_URI", "http://[::1", "MLFLOW_REGISTRY_URI is no address: Invalid IPv6 URL"),
        ("HF_ENDPOINT", "http://localhost:99999", "HF_ENDPOINT is no address: Port out of range 0-65535"),
        ("MLFLOW_LOGGING_LEVEL", "loud", "MLFLOW_LOGGING_LEVEL is 'loud'; it must be one of DEBUG"),
    ],
)
def test_a_variable_at_which_mlflow_would_end_is_one_line(
    clean: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(EnvironmentFault, match=re.escape(said)):
        settings.apply()


def test_a_number_that_mlflow_cannot_read_and_a_database_that_is_not_there_are_one_line(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for extra, said in (
        ({"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "abc"}, "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"),
        ({"MLFLOW_TRACKING_URI": "postgresql://u:secret@127.0.0.1:1/x"}, "MLflow's database at 127.0.0.1:1 does not answer"),
    ):
        done = command(tmp_path, "tasks.sync", PYTHONPATH=str(ROOT), **extra)
        assert done.returncode == 4 and said in done.stderr.splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr and "secret" not in done.stderr


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
@pytest.mark.parametrize(("given", "name"), [("", "no_proxy"), ("mlflow.lan, .corp", "NO_PROXY"), ("localhost", "no_proxy")])
def test_loopback_never_goes_through_a_proxy(
    clean: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, given: str, name: str
) -> None:
    monkeypatch.setenv(proxy, "http://192.0.2.1:3128")
    monkeypatch.setenv(name, given)
    for other in {"no_proxy", "NO_PROXY"} - {name}:
        monkeypatch.setenv(other, "")
        monkeypatch.delenv(other)
    settings.apply()
    for host in ("127.0.0.1:4200", "localhost:5000"):
        assert urllib.request.proxy_bypass_environment(host)  # type: ignore[attr-defined]
        assert requests.utils.should_bypass_proxies(f"http://{host}/api", None)
    assert not urllib.request.proxy_bypass_environment("example.org")  # type: ignore[attr-defined]
    kept = [host.strip() for host in given.split(",") if given]
    assert os.environ["no_proxy"].split(",")[: len(kept)] == kept and os.environ["NO_PROXY"] == os.environ["no_proxy"]
    settings.apply()
    assert os.environ["no_proxy"].count("localhost") == 1


def test_without_a_proxy_and_with_all_hosts_excepted_nothing_is_set(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.apply()
    assert "no_proxy" not in os.environ
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:3128")
    monkeypatch.setenv("no_proxy", "*")
    settings.apply()
    assert os.environ["no_proxy"] == "*" and "NO_PROXY" not in os.environ


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a?b", "options"),
        ("a:b", "two folders"),
        ("a\nb", "control"),
        ("a\x1b", "control"),
        ("a'\"b", "marks"),
        ("a{}b", "braces"),
    ],
)
@pytest.mark.fault("F32")
def test_a_path_that_the_tools_read_as_something_else_is_refused_at_the_start(
    clean: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    (clean / name).mkdir()
    monkeypatch.chdir(clean / name)
    with pytest.raises(EnvironmentFault, match=reason) as caught:
        settings.apply()
    assert "\n" not in str(caught.value) and "rename" in str(caught.value) and not list((clean / name).iterdir())


def test_an_installation_below_a_percent_sign_is_refused_at_the_start(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/data/100%/project/.venv")
    with pytest.raises(EnvironmentFault, match="below a folder with '%': /data"):
        settings.apply()


@pytest.mark.fault("F32")
def test_a_path_with_every_other_sign_works(tmp_path: Path) -> None:
    place = tmp_path / "it's #1 [new] (50%) é & $HOME; *~\\x"
    place.mkdir()
    (place / "params.yaml").touch()
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "tasks.sync"], cwd=place, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (place / "mlruns/mlflow.db").stat().st_size > 100_000 and [p.name for p in tmp_path.iterdir()] == [place.name]


@pytest.mark.parametrize("module", ["tasks.run", "tasks.sync", "tasks.ui", "flows.pipeline", "flows.watch", "flows.runs"])
def test_a_command_in_a_folder_that_is_no_project_makes_nothing_there(tmp_path: Path, module: str) -> None:
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", module], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.startswith("error: params.yaml is missing; run from the project's root")
    assert len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())


needs_root = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can become another user")


def as_unknown(project: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run Python as a user that the machine does not know."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "DO_NOT_TRACK": "true"}
    full = [*AS_UNKNOWN, *READS_ALL, sys.executable, *command]
    return subprocess.run(full, cwd=project, env=env, capture_output=True, text=True, timeout=120)


@needs_root
def test_a_user_that_the_machine_does_not_know_has_a_name_and_a_home(tmp_path: Path) -> None:
    for folder in (*tmp_path.parents, tmp_path):
        if folder.is_relative_to("/tmp/") and folder != Path("/tmp"):  # pytest's are closed to other users
            folder.chmod(0o755)
    project = tiny.make(tmp_path / "p")
    subprocess.run(["chmod", "-R", "a+rwX", str(project)], check=True)
    (tmp_path / "mine").mkdir(mode=0o700)
    shutil.chown(tmp_path / "mine", int(UNKNOWN), int(UNKNOWN))
    (tmp_path / "read-only").mkdir()
    homes = [str(tmp_path / "mine"), str(tmp_path / "read-only"), "/nonexistent", "/", None]
    done = as_unknown(project, "-c", WORK, json.dumps(homes))
    assert done.returncode == 0, done.stderr
    said, prefect, user, stages = json.loads(done.stdout)
    own, name = str(project / ".ssl/home"), f"uid-{UNKNOWN}"
    assert said == {
        homes[0]: [name, homes[0], None, None],
        homes[1]: [name, homes[1], f"{own}/.prefect", f"{own}/.cache"],
        **{str(home): [name, own, None, None] for home in homes[2:]},
    }
    assert prefect == f"{own}/.prefect" and user == name and set(stages) == set(tiny.NAMES)
    assert not (project / "~").exists()


@needs_root
@pytest.mark.fault("F22")
def test_a_project_and_a_home_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    for folder in (*tmp_path.parents, tmp_path):
        if folder.is_relative_to("/tmp/") and folder != Path("/tmp"):
            folder.chmod(0o755)
    project = tiny.make(tmp_path / "p")
    for module in ("tasks.run", "tasks.sync", "flows.pipeline"):
        done = as_unknown(project, "-m", module)
        assert done.returncode == 4 and len(done.stderr.splitlines()) == 1, (module, done.stderr)
        assert "can be written (Permission denied); set HOME" in done.stderr


@needs_root
@pytest.mark.fault("F22")
def test_a_project_that_only_others_may_write_is_one_line(tmp_path: Path) -> None:
    for folder in (*tmp_path.parents, tmp_path):
        if folder.is_relative_to("/tmp/") and folder != Path("/tmp"):
            folder.chmod(0o755)
    project = tiny.make(tmp_path / "p")
    (tmp_path / "mine").mkdir()
    shutil.chown(tmp_path / "mine", int(UNKNOWN), int(UNKNOWN))
    commands = ("tasks.run", "tasks.sync", "tasks.ui")
    program = f"""
import os, runpy, sys
os.environ["HOME"] = {str(tmp_path / "mine")!r}
sys.argv = [sys.argv[1]]
runpy.run_module(sys.argv[0], run_name="__main__")
"""
    for module in commands:
        done = as_unknown(project, "-c", program, module)
        assert done.returncode == 4 and done.stderr.startswith("error: "), (module, done.stderr)
        assert "Permission denied" in done.stderr and done.stderr.count("\n") == 1
        assert len(done.stderr.splitlines()) == 1
    done = as_unknown(project, "-c", program, "tasks.doctor")  # which makes every check that it can
    assert done.returncode == 4 and not done.stderr, done.stderr
    assert "DVC's locks: PROBLEM Permission denied (" in done.stdout and "\nregistry: " in done.stdout


def test_a_number_of_seconds_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.seconds("SSL_HANG_SECONDS", 5.0) == 5.0
    monkeypatch.setenv("SSL_HANG_SECONDS", "0")
    assert settings.seconds("SSL_HANG_SECONDS", 5.0) == 0.0
    for wrong in ("abc", "-1", "inf", "nan", ""):
        monkeypatch.setenv("SSL_HANG_SECONDS", wrong)
        with pytest.raises(UsageError, match="must be a number of seconds"):
            settings.seconds("SSL_HANG_SECONDS", 5.0)
