"""Every failure ends as one line with the right exit code; only our own bugs are internal errors."""

import importlib.util
import os
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core.engine.method import Batch
from ssl_core.engine.train import Trainer
from tasks.dvc.runner import dvc
from tasks.runtime.errors import LONGEST, explain
from tests.conftest import ROOT
from tests.ssl_core.engine.test_contract import build

PYTHON = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    ("kind", "given", "who"),
    [
        ("mlflow.exceptions.MlflowException", ("INTERNAL_ERROR: the server said\nno",), "MLflow: "),
        ("sqlalchemy.exc.OperationalError", ("SELECT 1", {}, Exception("database is locked")), "a database: "),
        ("sqlite3.OperationalError", ("database is locked",), "a database: "),
        ("dvc.exceptions.DvcException", ("unable to find a DVC repository",), "DVC: "),
        ("dvc.lock.LockError", ("unable to acquire lock",), "DVC: "),
        ("scmrepo.exceptions.SCMError", ("not owned by current user",), "git: "),
        ("prefect.exceptions.PrefectException", ("no such work pool",), "Prefect: "),
        ("prefect.exceptions.ObjectNotFound", (Exception("404"), "gone"), "Prefect: "),
        ("httpx.ConnectError", ("All connection attempts failed",), "a server: "),
    ],
)
def test_the_words_of_the_tools_are_one_line_of_the_environment(kind: str, given: tuple[Any, ...], who: str) -> None:
    code, message = explain(resolve_name(kind)(*given))
    assert code == 4 and message.startswith(who) and "\n" not in message and "internal" not in message


def test_a_long_answer_is_cut_and_holds_no_password() -> None:
    from mlflow.exceptions import MlflowException

    code, message = explain(MlflowException("http://me:secret@host/ " + "x" * 5000))
    assert code == 4 and "secret" not in message and len(message) < LONGEST + 20


@pytest.mark.fault("F46")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be reported later", 4),
        ("CUDA error: unspecified launch failure", 4),
        ("CUDA error: no kernel image is available for execution on the device", 4),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", 4),
        ("NCCL error in: ProcessGroupNCCL.cpp:2000, unhandled cuda error", 4),
        ("CUDA error: device-side assert triggered", 70),
        ("CUDA error: an illegal memory access was encountered", 70),
    ],
)
def test_a_gpu_that_dies_is_no_bug_and_a_wrong_index_is_one(words: str, code: int) -> None:
    found, message = explain(RuntimeError(words))
    assert found == code
    if code == 4:
        assert "\n" not in message and words.splitlines()[0] in message and "goes on from its last checkpoint" in message


@pytest.mark.fault("F50")
def test_an_operation_that_gives_other_bits_each_time_is_refused_where_they_must_repeat(shipped: dict[str, Any]) -> None:
    """torch knows one for a CPU, too: put_ with indices that may come twice."""
    method, made = build(shipped, "simclr")
    honest = method.loss

    def loss(batch: Batch) -> dict[str, Tensor]:
        found = honest(batch)["loss"]
        return {"loss": found + torch.zeros(2).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0])).mean()}

    method.loss = loss  # type: ignore[method-assign]
    try:
        Trainer(method, made.images, replace(made.config, mode="fast", epochs=1), seed=0).run()
        with pytest.raises(RuntimeError) as found:
            Trainer(method, made.images, replace(made.config, mode="deterministic", epochs=1), seed=0).run()
    finally:
        torch.use_deterministic_algorithms(False)
    assert explain(found.value) == (2, "put_ does not give the same bits each time on this device; set train.mode: fast")


def our_bug() -> None:
    raise RuntimeError("a bug")


def bug_in_a_call_of_mlflow() -> None:
    from mlflow import MlflowClient

    MlflowClient.log_batch()  # type: ignore[call-arg]


@pytest.mark.parametrize("bug", [our_bug, bug_in_a_call_of_mlflow, lambda: {}["key"], lambda: sqlite3.connect(5, timeout=None)])
def test_our_own_bugs_stay_internal_errors(bug: Callable[[], object]) -> None:
    with pytest.raises(Exception) as caught:
        bug()
    code, message = explain(caught.value)
    assert code == 70 and message.startswith("internal error")


def python(program: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", program], env=PYTHON | extra, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("module", ["flows.pipeline", "tasks.ui"])
def test_certificates_that_are_not_there_are_named_by_their_variable(module: str) -> None:
    """As conda leaves them; every client of HTTP, Prefect's too, reads them at its start."""
    done = python(f"import runpy; runpy.run_module({module!r}, run_name='__main__')", SSL_CERT_FILE="/gone/ca.pem")
    assert done.returncode == 4 and done.stderr.startswith(
        "error: SSL_CERT_FILE names /gone/ca.pem, which does not exist; unset"
    )
    assert done.stderr.count("\n") == 1


def test_a_wrong_setting_of_prefect_or_a_server_that_does_not_answer_is_one_line() -> None:
    wrong = python("import flows.pipeline", PREFECT_LOGGING_LEVEL="LOUD")
    assert wrong.returncode == 4 and wrong.stderr == (
        "error: PREFECT_LOGGING_LEVEL is 'LOUD'; Prefect says: Input should be 'DEBUG', 'INFO', 'WARNING', 'ERROR' or"
        " 'CRITICAL'\n"
    )
    gone = python(ASK, PREFECT_API_URL="http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES="0")
    said = [line for line in gone.stderr.splitlines() if line.startswith("error: ")]
    assert gone.returncode == 4 and "Failed to reach API at http://127.0.0.1:1/api/" in said[-1], gone.stderr
    assert "Traceback" not in gone.stderr


ASK = """
from flows import own_server
from prefect.client.orchestration import get_client
from tasks.runtime.errors import run
def ask():
    own_server.prepare()
    with get_client(sync_client=True) as client:
        client.raise_for_api_version_mismatch()
run(ask)
"""


@pytest.mark.parametrize(
    ("host", "said"), [("127.0.0.1:1", "Failed to reach API"), ("192.0.2.1", "Using SOCKS proxy, but the")]
)
def test_a_socks_proxy_that_cannot_be_used_matters_to_other_machines_alone(host: str, said: str) -> None:
    assert importlib.util.find_spec("socksio") is None, "with it there is nothing to refuse"
    proxies = {"ALL_PROXY": "socks5h://127.0.0.1:1", "no_proxy": "[::1]"}
    done = python(ASK, PREFECT_API_URL=f"http://{host}/api", PREFECT_CLIENT_MAX_RETRIES="0", **proxies)
    *_, last = done.stderr.splitlines()
    assert done.returncode == 4 and last.startswith("error: ") and said in last and "Traceback" not in done.stderr, done.stderr


def test_a_proxy_of_an_unknown_kind_is_named_by_its_variable() -> None:
    done = python(ASK, PREFECT_API_URL="http://192.0.2.1/api", all_proxy="gopher://127.0.0.1:1")
    *_, last = done.stderr.splitlines()
    assert done.returncode == 4 and last.endswith("Unknown scheme for proxy URL URL('gopher://127.0.0.1:1') (all_proxy)"), last


@pytest.mark.parametrize("options", [["-W", "error"], ["-We"], []])
def test_warnings_of_the_tools_are_no_errors_whatever_python_was_told(options: list[str]) -> None:
    program = (
        "import os, warnings; from tasks.runtime.errors import run; run(lambda: warnings.warn('old', DeprecationWarning));"
        " print(os.environ.get('PYTHONWARNINGS'))"
    )
    env = PYTHON | ({} if options else {"PYTHONWARNINGS": "error"})
    done = subprocess.run([sys.executable, *options, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "None\n" and "DeprecationWarning: old" in done.stderr, done


PRINTS = """
import sys, time
from tasks.runtime.errors import run
def work():
    for i in range(int(sys.argv[1])):
        print("line", i, flush=sys.argv[2] == "flush")
        time.sleep(0.01)
run(work)
"""


@pytest.mark.parametrize(("lines", "how"), [("200", "flush"), ("1", "at the end")])
@pytest.mark.parametrize("redirect", ["", "2>&1"])
def test_when_the_reader_goes_away_the_command_ends_without_a_word(lines: str, how: str, redirect: str) -> None:
    line = f'{{ "$0" -c "$1" {lines} "{how}" {redirect}; echo $? >&3; }} | true; wait'
    done = subprocess.run(
        ["bash", "-c", f"exec 3>&1; {line}", sys.executable, PRINTS], env=PYTHON, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("141\n", "")


OPENS = """
import sys
from tasks.runtime.errors import DataError, run
def work():
    with open(sys.argv[1], "w") as file:
        print("not for the file")
        print("nor this", file=sys.stderr)
        file.write(str(file.fileno() > 2))
    raise DataError("told to nobody")
run(work)
"""


def test_a_file_that_hides_a_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "dvc_data.py").touch()
    program = "from tasks.runtime.errors import run; run(lambda: __import__('dvc_data.hashfile'))"
    env = {**PYTHON, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 4 and f"{tmp_path}/dvc_data.py hides the package dvc_data" in done.stderr, done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_without_a_standard_stream_a_command_works_and_no_file_takes_its_place(tmp_path: Path, closed: str) -> None:
    command = ["bash", "-c", f'"$0" -c "$1" "$2" {closed}', sys.executable, OPENS, str(tmp_path / "file")]
    done = subprocess.run(command, env=PYTHON, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3 and (tmp_path / "file").read_text() == "True", done
    assert ("error: told to nobody" in done.stderr) == ("2>&-" not in closed) and "Traceback" not in done.stderr


def test_a_full_device_behind_the_output_is_named_and_not_the_disk_of_the_project() -> None:
    program = "from tasks.runtime.errors import run; run(lambda: print('x'))"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} > /dev/full"
    done = subprocess.run(["sh", "-c", command], env=PYTHON, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "no space left on the device of standard output" in done.stderr) == (4, True), done.stderr


def test_a_file_that_may_not_grow_is_no_full_disk(tmp_path: Path) -> None:
    program = f"from tasks.runtime.errors import run; run(lambda: open({str(tmp_path / 'big')!r}, 'w').write('x' * 99999))"
    command = f"ulimit -f 8; {shlex.quote(sys.executable)} -c {shlex.quote(program)}"
    done = subprocess.run(["sh", "-c", command], env=PYTHON, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "larger than this user (ulimit -f)" in done.stderr) == (4, True), done.stderr


def test_a_pipe_that_is_not_the_output_is_a_fault_of_the_environment() -> None:
    code, message = explain(BrokenPipeError(32, "Broken pipe"))
    assert (code, message) == (4, "Broken pipe")


def test_the_reason_of_dvc_is_its_error_and_not_its_advice(tmp_path: Path) -> None:
    assert str(dvc(tmp_path, "status")).startswith("you are not inside of a DVC repository")
    fault = dvc(tmp_path, "sttus")
    assert fault and "invalid choice: 'sttus'" in fault


@pytest.mark.parametrize("module", ["tasks.label", "tasks.run", "flows.pipeline", "flows.watch"])
def test_a_python_without_the_packages_is_told_of_the_one_that_has_them(module: str) -> None:
    """As when a line of the terminal's advice is pasted into a shell in which nothing is activated."""
    done = subprocess.run([sys.executable, "-S", "-m", module], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 4 and ". .venv/bin/activate" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_the_lines_that_load_an_encoder_name_the_python_that_has_the_packages(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tasks.encoder import load"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith(". .venv/bin/activate (make run makes it)"), done.stderr
