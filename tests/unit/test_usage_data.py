"""Libraries that tell their makers how they are used do not do so from ts4s."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_onnx_runtime_sends_nothing_and_leaves_nothing_in_the_temporary_folder(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    command = [sys.executable, "-c", "import ts4s_core, onnxruntime"]
    subprocess.run(command, env={**environ, "TMPDIR": str(tmp_path)}, check=True, timeout=120)
    assert list(tmp_path.iterdir()) == []
