"""make docs: the site builds, every link leads somewhere, every page is in the navigation."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def build(place: Path, project: Path) -> str:
    """Build as ``make docs`` does; what went wrong, or nothing. (With ``--quiet`` MkDocs counts no warnings.)"""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300)
    return done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    assert build(place, ROOT) == ""
    return place


def test_every_page_is_there_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    wanted = {page for page in pages if not page.name.endswith("-notes")} | {Path("CONTRIBUTING"), Path("CHANGELOG")}
    start = (site / "index.html").read_text()
    for page in wanted:
        assert (site / page).with_suffix(".html").is_file() and f'href="{page}.html"' in start, page
    assert "Two commands answer" in start
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', start)


def test_links_to_code_lead_to_the_repository_and_pictures_are_shown(site: Path) -> None:
    start = (site / "index.html").read_text()
    assert 'src="report.png"' in start and 'href="images.html"' in start
    assert 'href="https://example.org/ssl-pipeline/deploy/Dockerfile"' in (site / "clusters.html").read_text()
    assert 'href="adding-a-method.html">docs/adding-a-method.md' in (site / "CONTRIBUTING.html").read_text()


def test_a_broken_link_and_a_page_outside_the_navigation_fail(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "docs/alone.md").write_text("# Alone\n\n[gone](nowhere.md) and [gone, too](../no-such-code.py)\n")
    said = build(tmp_path / "site", tmp_path)
    assert {"alone.md", "nowhere.md", "no-such-code.py"} <= set(re.findall(r"[\w-]+\.\w+", said)), said
