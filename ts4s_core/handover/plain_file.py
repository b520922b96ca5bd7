"""One ONNX file of standard operators, as ONNX Runtime runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ts4s_core.errors import ParityError
from ts4s_core.handover.trained import Trained
from ts4s_core.prediction.runners import OnnxRunner

MODEL_FILE = "model.onnx"


def write_plain_file(trained: Trained, folder: Path) -> dict[str, Any]:
    """Write ``model.onnx`` (beside it ``model.onnx.data``, if the weights are 2 GB and more), run it, and compare.

    Raises:
        UnsupportedModelError: a node has no standard form.
        ParityError: ONNX Runtime cannot run the file, or computes something else.
    """
    import onnx

    from ts4s_core.models.plain_onnx.files import MAX_INLINE_BYTES, lowered, with_weights

    path = folder / MODEL_FILE
    model = with_weights(lowered(trained), trained.tensors)
    # Tied weights that are used in both orientations are in the file twice.
    inline = sum(len(tensor.raw_data) for tensor in model.graph.initializer) < MAX_INLINE_BYTES
    if inline:
        onnx.save(model, str(path))
    else:
        onnx.save(model, str(path), save_as_external_data=True, location=f"{MODEL_FILE}.data")
    try:
        onnx.checker.check_model(str(path))
        runner = OnnxRunner(session_of(path))
        difference = trained.check(runner, form="onnx")
    except ParityError:
        raise
    except Exception as exc:  # ONNX Runtime's exceptions have no common base below Exception
        raise ParityError(f"Export as onnx of {trained.manifest.ref}: ONNX Runtime cannot run it: {exc}") from exc
    inputs = [value.name for value in model.graph.input]
    return {"file": MODEL_FILE, "opset": model.opset_import[0].version, "inputs": inputs, "difference": difference}


def session_of(path: Path, *, threads: int = 1) -> Any:
    """An ONNX Runtime session of a file."""
    import onnxruntime

    from ts4s_core.models.plain_onnx.files import session_options

    return onnxruntime.InferenceSession(str(path), session_options(threads), providers=["CPUExecutionProvider"])
