"""Run the benchmarks and print one table. Exit code 1 when a ratio is well below its floor."""

import argparse
import importlib
import os
import sys
from pathlib import Path

from benchmarks.measure import HEADER, machine
from tasks.runtime.cores import cores
from tasks.runtime.heap import keep_freed_memory

BENCHMARKS = ("augment", "simclr", "evaluate")


def main() -> int:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", default=BENCHMARKS, metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default all")
    parser.add_argument("--images", type=Path, help="folder with train/<class>/*.jpg; default: synthetic JPEGs")
    parser.add_argument("--subset", type=int, default=10_000, help="use at most this many of its images")
    parser.add_argument("--size", type=int, default=32, help="side of the images of the augmentation benchmark")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each trial")
    parser.add_argument("--threads", type=int, default=cores(), help="torch threads of everybody; 1 on a machine that is busy")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    if options.images is not None and not (options.images / "train").is_dir():
        parser.error(f"{options.images} has no train/ folder")
    # Read by OpenMP when torch is first imported. Threads that spin while they wait are 10x slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    keep_freed_memory()  # for all contenders: our stages do so
    before, rows, held = machine(), [], True
    for name in options.names:
        found, ok = importlib.import_module(f"benchmarks.{name}").run(options)
        rows, held = rows + found, held and ok
    print("\n".join(["", *before, f"Threads: {options.threads}, and two more processes for each loader.", "", *HEADER, *rows]))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
