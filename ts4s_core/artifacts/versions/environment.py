"""What a manifest says about the machine that made an artifact."""

from __future__ import annotations

import functools
import platform
from importlib import metadata
from pathlib import Path

LIBRARIES = (
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnx2torch",
    "pyarrow",
    "pyspark",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


@functools.cache
def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that affect an artifact's content."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "none"
    return versions


@functools.cache
def instruction_set() -> str:
    """The widest vector instructions of this CPU, in PyTorch's words: floating-point sums depend on them."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return platform.machine()
    flags = {
        flag for line in info.splitlines() if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()
    }
    if {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= flags:
        return "AVX512"
    if {"avx2", "fma"} <= flags:
        return "AVX2"
    return "DEFAULT" if platform.machine() == "x86_64" else platform.machine()
