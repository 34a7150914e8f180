"""What mkdocs.yml lacks: the root's Markdown as pages, the decisions in the navigation, and links that leave ``docs``.

A link to a file of the repository that is no page becomes a link to the repository. One to a file that is not there is left
as it is, so that the strict build names it.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
"""Markdown in the root -> the page it becomes."""
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_config(config: Any) -> Any:
    """List every decision, in order."""
    decisions = sorted(path.name for path in (ROOT / "docs/decisions").glob("*.md"))
    config.nav = [
        {"Decisions": [f"decisions/{name}" for name in decisions]} if "Decisions" in entry else entry for entry in config.nav
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the root's pages."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=_from_docs((ROOT / source).read_text())))
    return files


def _from_docs(text: str) -> str:
    """The text of a file in the root, with links as they are from ``docs``."""
    return LINK.sub(lambda link: link[1] + os.path.relpath(link[2], "docs"), text)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links out of ``docs``: to a page that the file became, or to the repository."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def out(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / link[2]))
        if not target.exists() or files.get_file_from_path(os.path.relpath(target, ROOT / "docs")):
            return link[0]
        name = os.path.relpath(target, ROOT)
        page_of_it = PAGES.get(name)
        return link[1] + (os.path.relpath(ROOT / "docs" / page_of_it, folder) if page_of_it else f"{config.repo_url}/{name}")

    return LINK.sub(out, markdown)
