"""The one place where onnx2torch is imported, with torchvision or without.

onnx2torch asks for torchvision, but uses it for two operators of image models alone (NonMaxSuppression, RoiAlign).
There is no build of it that goes with every CPU build of torch: where none is installed, or one that the installed torch does
not go with, a stand-in module is put into ``sys.modules`` while onnx2torch is imported, and taken out again.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import threading
from types import ModuleType

from ts4s_core.errors import Ts4sError

INSTALL = "pip install --no-deps 'onnx2torch>=1.5.15,<2'"
log = logging.getLogger(__name__)
_LOCK = threading.RLock()


def import_library() -> ModuleType:
    """Import onnx2torch alone. Every module of the package ``converters`` may rely on it.

    Raises:
        Ts4sError: it is not installed.
    """
    with _LOCK:
        return _imported()


def _imported() -> ModuleType:
    loaded = sys.modules.get("onnx2torch")
    if loaded is not None:
        return loaded
    # torch looks at every loaded module's file while it registers operators: all of it must be in before the stand-in.
    importlib.import_module("torch.onnx.ops")
    stand_ins = {} if _torchvision_serves() else _stand_ins()
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module("onnx2torch")
    except ImportError as exc:
        _forget("onnx2torch")
        raise Ts4sError(
            f"Import of ONNX models for this installation: expected the library onnx2torch, got {exc}. Install it with: {INSTALL}"
        ) from exc
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


def _torchvision_serves() -> bool:
    """Whether the real one can be imported: one that was built for another torch raises whatever its operators do."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return "torchvision" in sys.modules
    try:
        importlib.import_module("torchvision.ops")
    except Exception as exc:
        _forget("torchvision")
        log.info("torchvision does not go with the installed torch and is not used: %s", exc)
        return False
    return True


def _forget(package: str) -> None:
    """Take a package that was imported in part out of the modules."""
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


def _stand_ins() -> dict[str, ModuleType]:
    torchvision, ops = ModuleType("torchvision"), ModuleType("torchvision.ops")

    def absent(*_args: object, **_kwargs: object) -> None:
        raise Ts4sError("Operator of an image model: expected a text model, got one that needs torchvision. Use a text model")

    for name in ("nms", "box_convert", "roi_align"):
        setattr(ops, name, absent)
    torchvision.ops = ops  # type: ignore[attr-defined]
    return {"torchvision": torchvision, "torchvision.ops": ops}
