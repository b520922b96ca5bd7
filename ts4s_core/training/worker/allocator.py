"""The C library's memory allocator, set up for training.

A step allocates the same tensors again and again, many of them megabytes large. By default glibc gets each of those from
the system with ``mmap`` and gives it back at once, so the kernel zeroes every page of every tensor of every step: a tenth
of a small model's step time. Set to keep freed memory, it takes tensors from memory that the process has already
touched. That is most of what another allocator (tcmalloc, jemalloc) brings, without having one installed.
"""

from __future__ import annotations

import ctypes
import logging
import os

log = logging.getLogger(__name__)

#: Parameters of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1
_GROW_BY_BYTES = 64 << 20


def keep_memory() -> bool:
    """Make this process keep memory that it frees; whether the C library took it (glibc does, others are left alone)."""
    try:
        glibc = "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, OSError, ValueError):
        glibc = False
    if not glibc:
        return False
    library = ctypes.CDLL(None)
    done = all(
        library.mallopt(parameter, value) == 1
        for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROW_BY_BYTES))
    )
    log.debug("memory allocator keeps freed memory: %s", done)
    return done
