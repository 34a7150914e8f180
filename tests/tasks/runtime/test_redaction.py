"""Canaries in addresses and in the environment, in every spelling: none is shown, and what is no secret stays."""

import base64
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from tasks.runtime import errors
from tasks.runtime.redaction import redact
from tasks.tracking.journal import Journal
from tasks.tracking.loading import load_lines
from tasks.tracking.tracker import Tracker
from tests.conftest import ROOT
from tests.support import project as support

CANARY = "c4n4ry"
PASSWORDS = [
    f"{CANARY}",
    f"{CANARY}@x",
    f"x@{CANARY}",
    f"{CANARY}/x",
    f"x/{CANARY}",
    f"a:{CANARY}",
    f"?{CANARY}",
    f"#{CANARY}@{CANARY}",
]
ADDRESSES = [
    *(f"http://me:{password}@127.0.0.1:1/mlflow" for password in PASSWORDS),
    *(f"http://me:{quote(password, safe='')}@127.0.0.1:1" for password in PASSWORDS),
    f"http://{CANARY}@127.0.0.1:1",
    f"http://127.0.0.1:1?token={CANARY}",
    f"http://127.0.0.1:1/x?a=1&password={CANARY}#{CANARY}",
    f"postgresql+psycopg2://127.0.0.1:1/db?user=me&password={CANARY}",
    f"s3://{CANARY}:{CANARY}@bucket/place",
]


@pytest.mark.fault("F77")
@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_keeps_its_place_and_nothing_that_lets_anybody_in(address: str) -> None:
    for text in (address, f"cannot reach '{address}' now", f'{{"uri": "{address}"}}', f"<{address}>", f"({address})"):
        shown = redact(text)
        assert CANARY not in shown and ("127.0.0.1:1" in shown or "bucket/place" in shown), shown


@pytest.mark.fault("F77")
def test_a_secret_of_the_environment_is_hidden_wherever_a_tool_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = f"{CANARY}/@ %&+"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{quote(secret, safe='')}@h")
    header = base64.b64encode(f"me:{secret}".encode()).decode()
    for name in (
        "URI",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "PREFECT_API_AUTH_STRING",
    ):
        if name != "URI":
            monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
            monkeypatch.setenv(name, secret)
        said = [secret, quote(secret), quote(secret, safe=""), quote_plus(secret), *([header] if name == "URI" else [])]
        for spelling in said:
            assert redact(f"refused: {spelling}!") == "refused: ***!", (name, spelling)
        monkeypatch.delenv(name, raising=False)


@pytest.mark.fault("F77")
@pytest.mark.parametrize(
    "word", ["password", "db_passwd", "token", "api_key", "ApiKey", "aws_secret", "access-key", "signature"]
)
def test_a_secret_beside_its_name_is_hidden(word: str) -> None:
    assert CANARY not in redact(f"url: /api?x=1&{word}={CANARY}&y=2") + redact(f"{word}: {CANARY}, y")


@pytest.mark.parametrize(
    "text",
    [
        "models:/a@champion",
        "sqlite:////home/a@b/mlruns/mlflow.db",
        "file:///a@b/c",
        "http://127.0.0.1:5000/#/x".partition("#")[0],
        "train.lr is '1e-3'; at 3@x",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


RAISES = """
import sys
from tasks.runtime import errors
def main():
    raise {kind}("see {address}")
errors.run(main)
"""


@pytest.mark.fault("F77")
@pytest.mark.parametrize("kind", ["errors.UsageError", "OSError", "ValueError"])
def test_no_failure_of_a_command_shows_one(kind: str) -> None:
    address = f"http://me:{CANARY}@x/{CANARY}@h/p?token={CANARY}"
    done = subprocess.run(
        [sys.executable, "-c", RAISES.format(kind=kind, address=address)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode and CANARY not in done.stdout + done.stderr and "@h/p?***" in done.stderr


@pytest.mark.fault("F77")
def test_nothing_that_is_written_or_printed_holds_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal full of them is sent to a store; a store that is asked through them is printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlruns/mlflow.db'}")
    monkeypatch.setenv("USER", "somebody")
    with Journal(tmp_path / "out/journal/simclr-0.jsonl") as journal:
        given = {f"given{number}": address for number, address in enumerate(ADDRESSES)}
        about = {"fingerprint": "f" * 64, "stage": "pretrain@simclr-0", "name": "simclr", "seed": 0}
        journal.start(**about, tags=given, params=given | {"long": ADDRESSES[3] + " " * 7000})  # type: ignore[arg-type]
        journal.end("FAILED", reason=f"no answer of {ADDRESSES[1]}")
    tracker = Tracker(tmp_path)
    assert tracker.sync() == 1
    for path in (tmp_path / "mlruns").rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes(), path
    for address in ADDRESSES:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert CANARY not in "".join(load_lines(tmp_path, "model"))
        done = (
            support.command(tmp_path, "tasks.sync", MLFLOW_TRACKING_URI=address, PYTHONPATH=str(ROOT))
            if address == ADDRESSES[1]
            else None
        )
        assert done is None or (done.returncode == 4 and CANARY not in done.stdout + done.stderr)
    assert errors.explain(errors.UsageError(ADDRESSES[0]))[1] == "http://***@127.0.0.1:1/mlflow"
