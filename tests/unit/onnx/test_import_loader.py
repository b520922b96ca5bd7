from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HIDDEN = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "onnx2torch":
            raise ModuleNotFoundError("No module named 'onnx2torch'")
sys.meta_path.insert(0, Finder())
"""
LOAD = "from ts4s_core.onnx.importing.registered_converters import onnx2torch\n"


REAL = """
def nms(*args): return "real"
box_convert = roi_align = nms
"""
USED = "\nfrom onnx2torch.node_converters import nms\nprint(nms.torchvision.ops.nms())"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def put_torchvision(folder: Path, *, init: str) -> str:
    """A package of that name in a folder, and the code that lets Python find it."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(init, encoding="utf-8")
    (package / "ops.py").write_text(REAL, encoding="utf-8")
    return f"import sys\nsys.path.insert(0, {str(folder)!r})\n"


def test_torchvision_is_used_where_it_is_there(tmp_path: Path) -> None:
    code = put_torchvision(tmp_path, init="from torchvision import ops") + LOAD + "onnx2torch()" + USED
    done = run(code)
    assert done.stdout.split() == ["real"], done.stderr


def test_a_torchvision_of_another_torch_is_not_used(tmp_path: Path) -> None:
    broken = "import torchvision.ops\nraise RuntimeError('operator torchvision::nms does not exist')"
    code = put_torchvision(tmp_path, init=broken) + LOAD
    code += "onnx2torch()\nprint([name for name in sys.modules if name.startswith('torchvision')])"
    done = run(code)
    assert done.stdout.strip() == "[]", done.stderr


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
    assert found.rstrip().endswith("Install it with: pip install --no-deps 'onnx2torch>=1.5.15,<2'")


def test_modules_without_onnx2torch_can_be_imported() -> None:
    """What only reads weights or descriptions does not need it (nor torch)."""
    code = (
        HIDDEN
        + "import ts4s_core.models.weights, ts4s_core.models.spec, ts4s_core.models.import_step, sys\n"
        + "print('torch' in sys.modules)"
    )
    assert run(code).stdout.split() == ["False"]
