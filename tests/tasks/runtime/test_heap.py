"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource
from tasks.runtime.heap import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        blocks = [b"1" * (24 << 20) for _ in range(3)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
old = faults()
keep_freed_memory()
faults()
print(old, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_a_block_that_was_freed_costs_no_new_pages() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=True)
    old, kept = map(int, done.stdout.split())
    assert old > 10_000 and kept < old / 20
