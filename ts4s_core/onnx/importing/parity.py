"""The parity gate: the original, ONNX Runtime and the imported module compute the same, gradients included.

Limits, in float32 (``m``: largest value of the original, ``g``: a tensor's gradient, ``G``: the whole gradient):

- forward: ``max |difference| <= 1e-5 * max(1, m)``, original against ONNX Runtime and against the imported module;
- gradient, per tensor: ``||difference|| <= 1e-5 * max(||g||, 1e-3 * ||G||)``. The second term is for tensors whose gradient
  is zero in mathematics and noise in floating point, such as the biases of attention keys;
- the names of the parameters are the same, and so is the set of those that get no gradient.

Where float32's noise alone breaks a limit between the original and the import (deep models), both are compared in float64
with 1e-9 in place of 1e-5, and the figures have both. Only real tokens are compared: what stands at padding is never used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ts4s_core.errors import ParityError, listed
from ts4s_core.onnx.graph.graph import Array
from ts4s_core.onnx.graph.inputs import Ids, RuntimeInputs
from ts4s_core.onnx.importing.imported_graph import ImportedGraph

LIMIT, LIMIT_FLOAT64 = 1e-5, 1e-9
SHARE_OF_WHOLE = 1e-3
SHAPES = ((2, 7), (3, 16), (1, 3), (4, 33))
SEED = 20_261_121


class Original(nn.Module):
    """A Hugging Face module behind the signature of an imported graph; the mask is treated as the library does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """``(B, T)`` int64 twice to hidden states, or the logits of a language model."""
        output = self.module(input_ids=input_ids, attention_mask=attention_mask)
        found: torch.Tensor = output.logits if "logits" in output else output.last_hidden_state
        return found


def _named(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict((module.module if isinstance(module, Original) else module).named_parameters())


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """What the random batches may hold: tokens below ``vocab_size`` but not ``pad_id``, at most ``max_length`` of them."""

    vocab_size: int
    pad_id: int
    max_length: int
    fixed: tuple[int, int] | None = None


@dataclass(frozen=True)
class Batch:
    """``input_ids`` and ``attention_mask``, ``(B, T)`` int64."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor

    @property
    def arguments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """For a forward call."""
        return self.input_ids, self.attention_mask

    @property
    def arrays(self) -> tuple[Ids, Ids]:
        """The same for what is not PyTorch."""
        return self.input_ids.numpy(), self.attention_mask.numpy()

    def real(self, output: torch.Tensor) -> torch.Tensor:
        """The values at real tokens, ``(tokens, ...)``."""
        return output[self.attention_mask.bool()]


def batches(ranges: Ranges) -> Iterator[Batch]:
    """Random batches of several shapes, with padding at the end of the rows."""
    random = np.random.default_rng(SEED)
    for rows, length in [ranges.fixed] if ranges.fixed else SHAPES:
        length = length if ranges.fixed else min(length, ranges.max_length)
        ids = random.integers(0, ranges.vocab_size - 1, size=(rows, length))
        ids += ids >= ranges.pad_id
        lengths = random.integers(max(1, length // 2), length + 1, size=rows)
        lengths[0] = length if rows > 1 or ranges.fixed is None else max(1, length // 2)
        mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
        yield Batch(torch.from_numpy(np.where(mask == 1, ids, ranges.pad_id)), torch.from_numpy(mask))


def largest_difference(found: Array, expected: Array) -> float:
    """The largest difference of a value, as a share of ``max(1, largest expected value)``; not a number if one of them is."""
    return float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))


def parity_gate(imported: ImportedGraph, *, onnx_path: Path, original: Original | None, ranges: Ranges) -> dict[str, Any]:
    """Compare, and return the figures.

    Args:
        imported: in any mode; it is left in eval mode.
        onnx_path: the ONNX file that it was made of.
        original: the module that was exported; None where there is none, as for a file made elsewhere: then the forward
            against ONNX Runtime is all that can be compared.
        ranges: of the random batches.

    Raises:
        ParityError: naming the first tensor beyond its limit.
    """
    imported.eval()
    figures: dict[str, Any] = {
        "limits": {"forward": LIMIT, "gradient": LIMIT, "float64": LIMIT_FLOAT64},
        "original": "module" if original is not None else "none: forward against ONNX Runtime alone",
        "shapes": [list(batch.input_ids.shape) for batch in batches(ranges)],
        "forward": _against_runtime(imported, original, onnx_path, ranges),
    }
    if original is None:
        return figures
    figures["parameters"] = _compare_names(imported, original)
    try:
        figures["float32"] = _compare(imported, original, ranges, limit=LIMIT)
    except ParityError as exc:
        figures["float32"] = _compare(imported, original, ranges, limit=float("inf"))
        figures["float32"]["beyond"] = str(exc)
        imported.double()
        original.double()
        try:
            figures["float64"] = _compare(imported, original, ranges, limit=LIMIT_FLOAT64)
        finally:
            imported.float()
            original.float()
    return figures


def takes_other_shapes(imported: ImportedGraph, fixed: tuple[int, int]) -> bool:
    """Whether a graph that was exported for one shape gives the same results, unpadded, for others."""
    rows, length = fixed
    ranges = Ranges(vocab_size=_smallest_table(imported), pad_id=0, max_length=length, fixed=(3, max(2, length // 2)))
    batch = next(batches(ranges))
    imported.eval()
    with torch.no_grad():
        try:
            imported.fixed = None
            shorter = batch.real(imported.encode(*batch.arguments))
        except (RuntimeError, ValueError, IndexError):
            return False
        finally:
            imported.fixed = (rows, length)
        padded = batch.real(imported.encode(*batch.arguments))
    imported.fixed = None
    return shorter.shape == padded.shape and largest_difference(shorter.numpy(), padded.numpy()) <= LIMIT


def output_width(imported: ImportedGraph) -> int:
    """Size of the last axis of the output."""
    ids = torch.zeros((1, 2), dtype=torch.int64)
    imported.eval()
    with torch.no_grad():
        return int(imported.encode(ids, torch.ones_like(ids)).shape[-1])


def _smallest_table(imported: ImportedGraph) -> int:
    """A number of tokens that every table has rows for, apart from those of token types."""
    from ts4s_core.onnx.converters.native import TokenEmbedding

    rows = [module.num_embeddings for module in imported.modules() if isinstance(module, TokenEmbedding)]
    return min((count for count in rows if count > 16), default=2)


def _against_runtime(imported: ImportedGraph, original: Original | None, onnx_path: Path, ranges: Ranges) -> dict[str, float]:
    """Largest differences from ONNX Runtime, as shares of ``max(1, largest value)``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise ParityError(
            f"Parity of {onnx_path.name}: expected a graph that ONNX Runtime runs, got {exc}. Export it again"
        ) from exc
    figures = {"onnxruntime_imported": 0.0} | ({"onnxruntime_original": 0.0} if original is not None else {})
    feed = RuntimeInputs(session.get_inputs())
    for batch in batches(ranges):
        found = torch.from_numpy(session.run(None, feed(*batch.arrays))[0])
        for name, module in (("onnxruntime_imported", imported), ("onnxruntime_original", original)):
            if module is not None:
                with torch.no_grad():
                    expected = module(*batch.arguments)
                figures[name] = max(
                    figures[name], _forward(found, expected, batch, limit=LIMIT, which=name.replace("_", " and "))
                )
    return figures


def _forward(found: torch.Tensor, expected: torch.Tensor, batch: Batch, *, limit: float, which: str) -> float:
    if found.shape != expected.shape:
        raise ParityError(
            f"Forward of {which}: expected the shape {tuple(expected.shape)}, got {tuple(found.shape)}. Export the model again"
        )
    share = largest_difference(batch.real(found).numpy(), batch.real(expected).numpy())
    if not share <= limit:
        raise ParityError(
            f"Forward of {which} differ in tensor output for shape {tuple(batch.input_ids.shape)}: expected at most {limit:g} x "
            f"max(1, largest value), got {share:.3g}. The graph does not compute what the model computes: export it again"
        )
    return share


def _compare_names(imported: nn.Module, original: nn.Module) -> dict[str, Any]:
    ours, theirs = _named(imported), _named(original)
    unknown = sorted(ours.keys() - theirs.keys())
    other = [name for name in ours.keys() & theirs.keys() if ours[name].shape != theirs[name].shape]
    if unknown or other:
        raise ParityError(
            f"Parameters of the imported graph: expected the original's names and shapes, got {listed(unknown + sorted(other))}. "
            "Export the model again"
        )
    return {"imported": len(ours), "unused": sorted(theirs.keys() - ours.keys())}


def _compare(imported: nn.Module, original: nn.Module, ranges: Ranges, *, limit: float) -> dict[str, Any]:
    figures: dict[str, Any] = {"forward": 0.0, "gradient": 0.0, "gradient_tensor": None}
    for number, batch in enumerate(batches(ranges)):
        outputs, gradients = [], []
        for module in (original, imported):
            output = module(*batch.arguments)
            outputs.append(output.detach())
            gradients.append(_gradients(module, batch.real(output), seed=SEED + number))
        share = _forward(outputs[1], outputs[0], batch, limit=limit, which="original and imported")
        figures["forward"] = max(figures["forward"], share)
        for name, ratio in _ratios(gradients[0], gradients[1]):
            if not ratio <= limit:
                raise ParityError(
                    f"Gradient of tensor {name}: expected a difference of at most {limit:g} x max(its norm, "
                    f"{SHARE_OF_WHOLE:g} x the whole gradient's), got {ratio:.3g}. "
                    "The graph does not compute what the model computes: export it again"
                )
            if ratio >= figures["gradient"]:
                figures["gradient"], figures["gradient_tensor"] = ratio, name
    return figures


def _gradients(module: nn.Module, output: torch.Tensor, *, seed: int) -> dict[str, torch.Tensor]:
    """Gradient of a random weighted sum of the output, for the parameters that get one."""
    weights = torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(output.shape))).to(output.dtype)
    named = _named(module)
    loss = (output * weights).sum() / output.numel()
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None}


def _ratios(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> Iterator[tuple[str, float]]:
    """Each tensor's difference as a share of what it is measured against."""
    differing = sorted(expected.keys() ^ found.keys())
    if differing:
        raise ParityError(
            f"Gradients of the imported graph: expected one for the same parameters as the original, got a difference in "
            f"{listed(differing)}. Export the model again"
        )
    whole = float(torch.stack([gradient.norm() for gradient in expected.values()]).norm())
    for name, gradient in expected.items():
        scale = max(float(gradient.norm()), SHARE_OF_WHOLE * whole)
        yield name, float((gradient - found[name]).norm()) / scale if scale else 0.0
