"""The allocator keeps what it was given: a second round of large tensors touches no new page."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from ts4s_core.training.worker.allocator import keep_memory
if sys.argv[1] == "keep" and not keep_memory():
    print("unsupported"); sys.exit()
def round():
    for _ in range(5):
        torch.zeros(16 << 20)
for _ in range(4):
    round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
round()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(mode: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, timeout=120, check=True
    ).stdout.strip()


def test_freed_memory_is_used_again_without_asking_the_system() -> None:
    kept = new_pages("keep")
    if kept == "unsupported":
        pytest.skip("the C library of this system is not glibc")
    assert int(kept) < 50
    assert int(new_pages("leave")) > 100  # five times 64 MiB, and pages may be of 2 MiB
