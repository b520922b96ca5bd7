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
#: Instructions beyond vectors' width for which Intel's libraries have kernels of their own, and Linux's names of them.
_NEWER = {
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "BF16": {"avx512_bf16"},
    "FP16": {"avx512_fp16"},
    "AMX": {"amx_tile"},
}


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
    """What of this CPU floating-point sums depend on."""
    try:
        return instructions_in(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace"))
    except OSError:
        return platform.machine()


def instructions_in(cpuinfo: str) -> str:
    """The widest vector instructions, in PyTorch's words, and whatever else its libraries choose kernels by.

    Of two CPUs that both have AVX-512 the one with AMX gives other bits (seen, with one PyTorch and one code).
    """
    lines = [(name.strip(), value) for name, _, value in (line.partition(":") for line in cpuinfo.splitlines())]
    flags = {flag for name, value in lines if name in ("flags", "Features") for flag in value.split()}
    if {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= flags:
        widest = "AVX512"
    elif {"avx2", "fma"} <= flags:
        widest = "AVX2"
    else:
        return "DEFAULT" if platform.machine() == "x86_64" else platform.machine()
    newer = [word for word, names in _NEWER.items() if names & flags]
    return " ".join([widest, *newer, *(["AMD"] if ("vendor_id", " AuthenticAMD") in lines else [])])
