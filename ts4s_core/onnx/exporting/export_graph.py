"""A Hugging Face module as an ONNX graph: one opset, dynamic batch and sequence, the same bytes every time.

Shapes: ``B`` texts, ``T`` tokens, ``H`` hidden size, ``V`` vocabulary.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ts4s_core.errors import ParityError, SourceError, UnsupportedModelError
from ts4s_core.onnx.graph.weight_names import NameMap, distinct_weights, map_initializers, refuse_folded, restore_weights
from ts4s_core.onnx.sources.families import ExportWrapper
from ts4s_core.task_kinds.kind import BaseTask

if TYPE_CHECKING:
    import onnx_ir

OPSET = 23
INPUTS = ("input_ids", "attention_mask")
OUTPUT = {"encoder": "last_hidden_state", "causal-lm": "logits"}
MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
EXPORT_SHAPE = (2, 8)
CHECKED_SHAPES = ((3, 5), (1, 1))
#: ONNX Runtime against PyTorch after export: a mistake shows as 1e-2 and more, FP32 rounding stays far below.
TOLERANCE = 1e-4
#: A protobuf message ends at 2 GiB; below this the weights of ``export --to`` are inside the file.
MAX_INLINE_BYTES = 2**31 - 2**24
_MAX_BATCH = 2**20


@dataclass(frozen=True)
class ExportedGraph:
    """A graph with its weights, and where each parameter is in it."""

    model: onnx_ir.Model
    names: NameMap
    task: BaseTask


def export_graph(module: nn.Module, *, task: BaseTask, max_positions: int) -> ExportedGraph:
    """Trace a module into a graph; the module is left as it was.

    Args:
        module: what :func:`ts4s_core.onnx.sources.families.build_module` makes, in eval mode, float32.
        task: ``encoder`` or ``causal-lm``.
        max_positions: the longest sequence that the module takes.

    Raises:
        UnsupportedModelError: if the exporter fails, or folds a weight away.
    """
    wrapper = ExportWrapper(module, task)
    with distinct_weights(module):
        model = _traced(wrapper, task=task, max_positions=max_positions)
        names = map_initializers(model.graph, module)
    refuse_folded(module, wrapper(*sample(EXPORT_SHAPE, module)), names.unused)
    restore_weights(model.graph, module, names)
    _strip(model)
    return ExportedGraph(model, names, task)


def sample(shape: tuple[int, int], module: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers and a mask ``(B, T)``, int64, the last text padded where it is long enough; the same every time."""
    vocabulary = int(module.config.vocab_size)  # type: ignore[union-attr, arg-type]
    generator = torch.Generator().manual_seed(shape[0] * 1_000 + shape[1])
    ids = torch.randint(0, vocabulary, shape, generator=generator)
    mask = torch.ones_like(ids)
    if shape[1] > 2:
        mask[-1, -2:] = 0
    return ids, mask


def write_graph(graph: ExportedGraph, folder: Path) -> None:
    """Write ``model.onnx`` and, beside it, the weights as ``model.onnx.data``."""
    import onnx_ir

    onnx_ir.save(graph.model, folder / MODEL_FILE, external_data=DATA_FILE)


def check_graph(path: Path, module: nn.Module, *, task: BaseTask) -> float:
    """Check a written graph: ONNX's checker, then ONNX Runtime against the module on shapes it was not exported with.

    Returns:
        the largest difference, as a share of ``max(1, largest value)``.

    Raises:
        ParityError: if ONNX Runtime cannot run the graph or computes something else.
    """
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    differences = []
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for shape in CHECKED_SHAPES:
            ids, mask = sample(shape, module)
            found = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
            with torch.no_grad():  # the library's own treatment of the mask, not the wrapper's
                output = module(input_ids=ids, attention_mask=mask)
            expected = (output.logits if task == "causal-lm" else output.last_hidden_state).numpy()
            differences.append(float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max()))))
    except Exception as exc:  # ONNX Runtime's exceptions have no common base below Exception
        raise ParityError(f"ONNX Runtime cannot run the exported graph: {exc}") from exc
    worst = float(np.max(differences))  # not a number if one of them is
    if not worst <= TOLERANCE:
        raise ParityError(
            f"The exported graph computes something else than the model: expected a difference of at most {TOLERANCE:g}, "
            f"got {worst:.3g}. Are all of its weights finite?"
        )
    return worst


def write_plain(stored: Path, target: Path) -> list[Path]:
    """Write a stored graph as one plain file, all at once or not at all; weights of 2 GB and more stand beside it.

    Args:
        stored: ``model.onnx`` of an artifact, its weights beside it.
        target: a path that ends in ``.onnx``; an existing file is replaced.

    Returns:
        the files written.

    Raises:
        SourceError: if the place cannot be written to.
    """
    import onnx_ir

    check_target(target)
    data_name = f"{target.name}.data"
    model = onnx_ir.load(stored)
    values = model.graph.initializers.values()
    inline = sum(value.const_value.nbytes for value in values if value.const_value is not None) < MAX_INLINE_BYTES
    if inline:
        onnx_ir.external_data.load_to_model(model)
    files = [target] if inline else [target.with_name(data_name), target]
    try:
        with tempfile.TemporaryDirectory(prefix=".ts4s-export-", dir=target.parent) as temporary:
            onnx_ir.save(model, Path(temporary) / target.name, external_data=None if inline else data_name)
            for file in files:
                os.replace(Path(temporary) / file.name, file)
    except OSError as exc:
        raise SourceError(f"--to {target} cannot be written: {exc.strerror or exc}. Choose another folder") from exc
    return files


def check_target(target: Path) -> None:
    """Check where ``export --to`` is to write, before the work.

    Raises:
        SourceError: on another ending, a folder in its place, a parent that does not exist or cannot be written to.
    """
    if target.suffix != ".onnx":
        raise SourceError(f"--to {target} is no ONNX file: expected a path that ends in .onnx")
    if target.is_dir():
        raise SourceError(f"--to {target} is a folder: expected a file that ends in .onnx")
    if not target.parent.is_dir():
        raise SourceError(f"--to {target} cannot be written: its folder {target.parent} does not exist. Create it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise SourceError(f"--to {target} cannot be written: no right to write in {target.parent}. Choose another folder")


def _traced(wrapper: ExportWrapper, *, task: BaseTask, max_positions: int) -> onnx_ir.Model:
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    sequence = torch.export.Dim("sequence", min=1, max=max_positions)
    shapes = ({0: batch, 1: sequence}, {0: batch, 1: sequence})
    try:
        with _quiet():
            program = torch.onnx.export(
                wrapper,
                sample(EXPORT_SHAPE, wrapper.module),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(INPUTS),
                output_names=[OUTPUT[task]],
                dynamic_shapes=shapes,
                verbose=False,
            )
    except Exception as exc:  # the exporter's errors have no base class of their own
        cause = exc.__cause__ or exc
        raise UnsupportedModelError(
            f"Model cannot be exported to ONNX opset {OPSET}: {type(cause).__name__}: {str(cause)[:500]}"
        ) from exc
    if program is None:
        raise UnsupportedModelError(f"Model cannot be exported to ONNX opset {OPSET}: the exporter gave no graph")
    return program.model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporter says to its own developers (deprecations, the absence of torchvision)."""
    talkative = logging.getLogger("torch.onnx")
    level = talkative.level
    talkative.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talkative.setLevel(level)


def _strip(model: onnx_ir.Model) -> None:
    """Take out stack traces, file paths and other traces of this machine: they would change the bytes."""
    model.doc_string = None
    model.metadata_props.clear()
    graph = model.graph
    graph.doc_string = None
    graph.metadata_props.clear()
    values: list[Any] = [*graph.inputs, *graph.initializers.values()]
    for node in graph.all_nodes():
        node.doc_string = None
        node.metadata_props.clear()
        values.extend(node.outputs)
    for value in values:
        value.doc_string = None
        value.metadata_props.clear()
