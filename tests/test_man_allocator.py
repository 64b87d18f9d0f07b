"""Freed memory stays in the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import sys
import numpy as np
from manifests.allocator import keep_freed_memory
if "keep" in sys.argv:
    assert keep_freed_memory()
for _ in range(3):
    np.ones(64 << 20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(64 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is on Linux only")
def test_blocks_are_reused_without_new_pages():
    faults = {}
    for mode in ("keep", "leave"):
        run = [sys.executable, "-c", PROGRAM, mode]
        faults[mode] = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert faults["keep"] < 0.2 * faults["leave"]
