"""Opens a page in headless Chromium, for tests: what it drew, what it complained of, what it asked the network for."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio",
)  # fmt: skip
# Added to a copy of the page: waits for every image, then leaves what the test asks for in the document.
PROBE = """<script>(async () => {
  const images = [...document.images];
  for (const image of images) image.loading = 'eager';
  const decoded = await Promise.allSettled(images.map(image => image.decode()));
  const found = {
    images: images.length,
    broken: images.filter((image, i) => decoded[i].status == 'rejected' || !image.naturalWidth).map(image => image.alt),
    without_alt: images.filter(image => !image.alt).length,
    requests: performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !name.startsWith('data:')),
    width: document.documentElement.scrollWidth, scripts: document.scripts.length - 1, text: document.body.innerText,
  };
  const out = document.createElement('pre'); out.id = 'probe'; out.textContent = btoa(encodeURIComponent(JSON.stringify(found)));
  document.body.append(out);
})()</script>"""


def chromium() -> str:
    """The browser's path.

    Raises:
        RuntimeError: there is none; the tests of pages need it.
    """
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        raise RuntimeError("the tests of pages need Chromium: apt-get install chromium")
    return found


def _run(page: Path, *flags: str, width: int = 1280, height: int = 900) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [chromium(), *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", *flags, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def inspect(page: Path, width: int = 1280) -> dict:
    """What the browser made of ``page``: images and broken ones, requests, scripts, width, text, console lines.

    Raises:
        AssertionError: the page did not load.
    """
    copy = page.with_name(f"probe-{page.name}")
    copy.write_text(page.read_text().replace("</body>", f"{PROBE}</body>"))
    done = _run(copy, "--dump-dom", "--virtual-time-budget=20000", "--enable-logging=stderr", "--v=0", width=width)
    copy.unlink()
    found = re.search(r'<pre id="probe">([^<]*)', done.stdout)
    assert found, f"the page did not load:\n{done.stderr[-2000:]}"
    from base64 import b64decode
    from urllib.parse import unquote

    result = json.loads(unquote(b64decode(found[1]).decode()))
    return result | {"console": [line for line in done.stderr.splitlines() if ":CONSOLE" in line or "CONSOLE(" in line]}


def screenshot(page: Path, target: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
    """Write a PNG of the first ``height`` pixels of ``page``."""
    theme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    _run(page, f"--screenshot={target}", "--virtual-time-budget=20000", *theme, width=width, height=height)
