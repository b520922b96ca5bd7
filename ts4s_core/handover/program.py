"""A program of ``torch.export``: PyTorch alone loads and runs it, on any batch and length."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ts4s_core.errors import UnsupportedModelError
from ts4s_core.handover.trained import Floats, Trained

PROGRAM_FILE = "model.pt2"
_EXPORT_SHAPE = (2, 8)
_MAX_BATCH = 2**20


def write_program(trained: Trained, folder: Path) -> dict[str, Any]:
    """Write ``model.pt2``, load it again, and compare. It takes ``(input_ids, attention_mask)``, ``(B, T)`` int64 each.

    Raises:
        UnsupportedModelError: the model cannot be exported.
        ParityError: the program computes something else.
    """
    import torch

    path = folder / PROGRAM_FILE
    shape = trained.spec.fixed_shape or _EXPORT_SHAPE
    example = (torch.full(shape, trained.spec.pad_id, dtype=torch.int64), torch.ones(shape, dtype=torch.int64))
    model = _traceable(trained)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, example, dynamic_shapes=_dynamic(trained), strict=False)
            torch.export.save(program, path)
    except Exception as exc:  # the exporter's errors have no base class of their own
        raise UnsupportedModelError(
            f"Export as torch of {trained.manifest.ref}: torch.export does not support it: "
            f"{type(exc).__name__}: {str(exc)[:300]}. Use --format onnx"
        ) from exc

    return {"file": PROGRAM_FILE, "difference": trained.check(load_program(folder), form="torch")}


def load_program(folder: Path) -> Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Floats]:
    """The program in a folder, as its users load it."""
    import torch

    loaded = torch.export.load(folder / PROGRAM_FILE).module()

    def run(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Floats:
        with torch.inference_mode():
            logits: Floats = loaded(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        return logits

    return run


def _traceable(trained: Trained) -> Any:
    """The model in a form that ``torch.export`` takes; it shares the model's weights."""
    import torch

    from ts4s_core.models.graph_model import GraphModel
    from ts4s_core.onnx.importing.symbolic_shapes import SymbolicShapes

    model = trained.merged
    if not isinstance(model, GraphModel):
        return model
    encoder, head = SymbolicShapes(model), model.head

    class Whole(torch.nn.Module):
        """Encoder and head; or a language model."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.head = torch.nn.Identity() if head is None else head

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.encoder(input_ids, attention_mask))
            return logits

    return Whole().eval()


def _dynamic(trained: Trained) -> Any:
    import torch

    if trained.spec.fixed_shape is not None:
        return None
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    sequence = torch.export.Dim("sequence", min=1, max=max(2, trained.longest))
    return ({0: batch, 1: sequence}, {0: batch, 1: sequence})
