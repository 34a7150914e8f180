"""Evidence that every method learns: the whole pipeline on 20,000 images of CIFAR-10, two seeds, into ``docs/evidence.md``.

``python -m benchmarks.evidence --images cifar10.tar.xz`` (a tar or zip with ``train/CLASS/*`` and ``test/CLASS/*``). It works
in a clone of this project and can be interrupted: the same command continues.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import machine
from tasks.runtime import files

PRESET = Path("presets/evidence.yaml")
TABLE = Path("docs/evidence.md")


def workspace(directory: Path, images: Path) -> None:
    """A clone of the project's committed state with the preset's parameters and the user's images."""
    if not (directory / ".git").is_dir():
        subprocess.run(["git", "clone", "--quiet", ".", str(directory)], check=True)
    preset = directory / PRESET
    text = PRESET.read_text().replace("path: cifar10.tar.xz", f"path: {images.resolve()}")
    if preset.read_text() != text:
        files.write_text(preset, text)
        subprocess.run([sys.executable, "-m", "tasks.preset", PRESET.stem], cwd=directory, check=True)


def page(directory: Path) -> str:
    """The leaderboard with what it was made from."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=directory, capture_output=True, text=True, check=True)
    notes = (TABLE.parent / "evidence-notes.md").read_text()
    made = f"Made by `python -m benchmarks.evidence` at commit {commit.stdout.strip()} with `{PRESET}`."
    return "\n".join([notes.rstrip(), "", made, *machine(), "", (directory / "reports/leaderboard.md").read_text()])


def main() -> int:
    """Clone, run, write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="archive of CIFAR-10 as image files")
    parser.add_argument("--work", type=Path, default=Path(".ssl/evidence"), help="where to work (kept, to continue)")
    parser.add_argument("-j", "--jobs", type=int, help="stages at a time; default: as many as the cores carry")
    options = parser.parse_args()
    workspace(options.work, options.images)
    jobs = [] if options.jobs is None else ["--jobs", str(options.jobs)]
    code = subprocess.run([sys.executable, "-m", "tasks.run", *jobs], cwd=options.work).returncode
    if not code:
        files.write_text(TABLE, page(options.work))
        print(f"written: {TABLE}")
    return code


if __name__ == "__main__":
    sys.exit(main())
