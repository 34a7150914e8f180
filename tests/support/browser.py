"""Opens a page in headless Chromium, for tests: what it drew, what it complained of, what it asked the network for."""

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.parse
from pathlib import Path
from subprocess import PIPE

import pytest

SECONDS = 60

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio",
)  # fmt: skip
# Added to a copy of the page: once everything is loaded, leaves what the tests ask for in the document.
PROBE = """<script>addEventListener('load', () => {
  const images = [...document.images], pen = document.createElement('canvas').getContext('2d');
  const fine = i => { try { pen.drawImage(i, 0, 0); return i.naturalWidth; } catch { return false; } };
  const found = {
    images: images.length, broken: images.filter(image => !fine(image)).map(image => image.alt),
    without_alt: images.filter(image => !image.alt).length,
    requests: performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !name.startsWith('data:')),
    cut: [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.ariaLabel),
    width: document.documentElement.scrollWidth, scripts: document.scripts.length - 1,
    canvases: document.querySelectorAll('canvas').length, text: document.body.innerText,
  };
  const out = document.createElement('pre');
  out.id = 'probe';
  out.textContent = btoa(encodeURIComponent(JSON.stringify(found)));
  document.body.append(out);
})</script>"""


def chromium() -> str:
    """The browser's path. Without one the test of a page is skipped, as `make test` promises to need Python alone.

    Raises:
        RuntimeError: there is none in continuous integration, where nothing is skipped.
    """
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found:
        return found
    reason = "the tests of pages need Chromium: apt-get install chromium"
    if os.environ.get("CI"):
        raise RuntimeError(reason)
    pytest.skip(reason)


def _run(page: Path, *flags: str, width: int = 1280, height: int = 900) -> tuple[str, str]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [chromium(), *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", *flags, page.as_uri()]
        with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True) as process:
            try:
                out, errors = process.communicate(timeout=SECONDS)
            finally:
                with contextlib.suppress(ProcessLookupError):  # the browser's own children outlive it when it hangs
                    os.killpg(process.pid, signal.SIGKILL)
        return out, errors


def inspect(page: Path, width: int = 1280) -> dict:
    """What the browser made of ``page``: images and broken ones, requests, scripts, width, text, console lines.

    Raises:
        AssertionError: the page did not load.
    """
    chromium()
    copy = page.with_name(f"probe-{page.name}")
    text, _, end = page.read_text().replace(' loading="lazy"', "").rpartition("</body>")
    copy.write_text(f"{text}{PROBE}</body>{end}")
    out, errors = _run(copy, "--dump-dom", "--enable-logging=stderr", "--v=0", width=width)
    copy.unlink()
    found = re.search(r'<pre id="probe">([^<]*)', out)
    assert found, f"the page did not load:\n{errors[-2000:]}"
    result = json.loads(urllib.parse.unquote(base64.b64decode(found[1]).decode()))
    return result | {"console": [line for line in errors.splitlines() if ":CONSOLE" in line or "CONSOLE(" in line]}


def screenshot(page: Path, target: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
    """Write a PNG of the first ``height`` pixels of ``page``."""
    theme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    _run(page, f"--screenshot={target}", *theme, width=width, height=height)
