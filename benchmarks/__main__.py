"""Run the benchmarks and print their tables. Exit code 1 when a ratio is well below its floor."""

import argparse
import importlib
import os
import sys
from pathlib import Path

from benchmarks.measure import machine
from tasks.runtime import files
from tasks.runtime.cores import cores
from tasks.runtime.heap import keep_freed_memory

BENCHMARKS = {
    "training": "Training, from JPEG files to the optimizer's step",
    "augment": "Views alone",
    "evaluate": "Evaluation",
}
BEGIN, END = "<!-- make bench: from here -->", "<!-- make bench: to here -->"
QUICK = {"rounds": 1, "seconds": 0.2, "subset": 1024, "batch": 32}
"""As few images as MoCo's queue holds keys."""


def main() -> int:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default all")
    parser.add_argument("--images", type=Path, help="folder with train/<class>/*.jpg; default: synthetic JPEGs")
    parser.add_argument("--subset", type=int, default=10_000, help="use at most this many of its images")
    parser.add_argument("--size", type=int, default=32, help="side of the images of the augmentation benchmark")
    parser.add_argument("--batch", type=int, default=256, help="images of a step of training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each trial")
    parser.add_argument("--threads", type=int, default=cores(), help="the most torch threads of anybody")
    parser.add_argument("--page", type=Path, help="also put the tables into this page, between its two marks")
    parser.add_argument("--quick", action="store_true", help="in miniature, to see that it runs; no floor is judged")
    options = parser.parse_args()
    names = options.names or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    if options.images is not None and not (options.images / "train").is_dir():
        parser.error(f"{options.images} has no train/ folder")
    before_page, after_page = around(options.page, parser)
    if options.quick:
        vars(options).update(QUICK)
    # Read by OpenMP when torch is first imported. Threads that spin while they wait are 10x slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    keep_freed_memory()  # for all contenders: our stages do so
    lines, held = [*machine(), f"Images: {options.images.name if options.images else 'synthetic JPEGs'}."], True
    for name in names:
        found, ok = importlib.import_module(f"benchmarks.{name}").run(options)
        lines, held = [*lines, "", f"## {BENCHMARKS[name]}", "", *found], held and ok
    text = "\n".join(lines)
    print(text)
    if options.page:
        files.write_text(options.page, f"{before_page}{BEGIN}\n\n{text}\n\n{END}{after_page}")
    return 0 if held or options.quick else 1


def around(page: Path | None, parser: argparse.ArgumentParser) -> tuple[str, str]:
    """What stands in the page before and after the tables."""
    if page is None:
        return "", ""
    text = page.read_text() if page.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        parser.error(f"{page} needs a line {BEGIN} and after it a line {END}")
    return text.partition(BEGIN)[0], text.partition(END)[2]


if __name__ == "__main__":
    sys.exit(main())
