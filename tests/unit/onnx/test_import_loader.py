from __future__ import annotations

import subprocess
import sys

HIDDEN = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "onnx2torch":
            raise ModuleNotFoundError("No module named 'onnx2torch'")
sys.meta_path.insert(0, Finder())
"""
LOAD = "from ts4s_core.onnx.importing.registered_converters import onnx2torch\n"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_the_stand_in_is_gone_after_the_import() -> None:
    code = LOAD + "import sys\nlibrary = onnx2torch()\nprint('torchvision' in sys.modules, library is onnx2torch())"
    assert run(code).stdout.split() == ["False", "True"]


def test_converters_can_be_imported_first() -> None:
    assert run("import ts4s_core.onnx.converters.native, sys\nprint('torchvision' in sys.modules)").stdout.split() == ["False"]


def test_missing_library_is_one_line_that_says_how_to_install_it() -> None:
    code = HIDDEN + LOAD + "try:\n    onnx2torch()\nexcept Exception as exc:\n    print(type(exc).__name__, exc)"
    found = run(code).stdout
    assert found.startswith(
        "Ts4sError Import of ONNX models for this installation: expected the library onnx2torch, got No module"
    )
    assert found.rstrip().endswith("Install it with: pip install --no-deps onnx2torch==1.5.15")


def test_modules_without_onnx2torch_can_be_imported() -> None:
    """What only reads weights or descriptions does not need it (nor torch)."""
    code = (
        HIDDEN
        + "import ts4s_core.models.weights, ts4s_core.models.spec, ts4s_core.models.import_step, sys\n"
        + "print('torch' in sys.modules)"
    )
    assert run(code).stdout.split() == ["False"]
