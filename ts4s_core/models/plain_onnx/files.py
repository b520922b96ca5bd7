"""A trained model as plain ONNX: in one file, or as a session that maps the weights from where they are.

Shapes: ``B`` texts, ``T`` tokens, ``H`` hidden size, ``C`` classes, ``V`` vocabulary.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ts4s_core.errors import IntegrityError, listed
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.models.plain_onnx.builder import Lowered
from ts4s_core.models.plain_onnx.lower import Output, lower
from ts4s_core.models.spec import WEIGHTS_FILE
from ts4s_core.models.weights import save_weights
from ts4s_core.onnx.graph.failures import graph_failures
from ts4s_core.onnx.graph.graph import Array

#: A protobuf message ends at 2 GiB; below this the weights are inside the file.
MAX_INLINE_BYTES = 2**31 - 2**24
_DTYPES = {"F32": TensorProto.FLOAT}


@graph_failures("Standard form of the model")
def lowered(opened: ModelFolder, *, output: Output = "logits") -> Lowered:
    """The graph of a ``model`` or ``trained`` artifact in standard operators.

    Raises:
        IntegrityError: a file is missing or damaged.
        UnsupportedModelError: a node has no standard form.
    """
    return lower(opened.graph, opened.spec, output=output)


def with_weights(graph: Lowered, tensors: Mapping[str, Array]) -> onnx.ModelProto:
    """A model with its weights in it, below 2 GiB.

    Args:
        graph: what :func:`lowered` gave.
        tensors: the state dict, float32.
    """
    held = []
    for value, use in graph.weights.items():
        array = tensors[use.name]
        held.append(numpy_helper.from_array(np.ascontiguousarray(array.T if use.transposed else array), value))
    return _model(graph, held)


def with_mapped_weights(graph: Lowered, weights: Path) -> onnx.ModelProto:
    """A model whose weights are said to lie in a safetensors file, as external data: nothing is copied.

    A matrix that the graph wants transposed is transposed by a node, which ONNX Runtime folds when it loads the model.
    """
    places = _places(weights)
    missing = sorted({use.name for use in graph.weights.values() if places.get(use.name, ("",))[0] not in _DTYPES})
    if missing:
        raise IntegrityError(
            f"Weights {weights.name} do not fit their graph: expected {listed(missing)} as float32. Restore the file"
        )
    held: dict[str, TensorProto] = {}
    turns = []
    for value, use in graph.weights.items():
        if use.name not in held:
            held[use.name] = _external(use.name, places[use.name], weights.name)
        if use.transposed:
            turns.append(helper.make_node("Transpose", [use.name], [value], perm=[1, 0]))
    return _model(graph, list(held.values()), before=turns)


@graph_failures("Opening of the model in ONNX Runtime")
def open_session(opened: ModelFolder, *, threads: int, output: Output = "logits") -> Any:
    """An ONNX Runtime session of a ``model`` or ``trained`` artifact, its weights mapped from their file.

    Args:
        opened: the artifact.
        threads: threads of one run; they do not spin between runs.
        output: what it gives out.

    Raises:
        IntegrityError: a file is missing or damaged.
        UnsupportedModelError: a node has no standard form.
    """
    graph = lowered(opened, output=output)
    if not opened.spec.lora_rank:
        return _mapping_session(graph, opened.weights_file, threads=threads)
    with tempfile.TemporaryDirectory(prefix="ts4s-merged-") as temporary:
        merged = Path(temporary) / WEIGHTS_FILE
        save_weights(merged, opened.tensors)
        # A mapped file stays readable after its name is gone.
        return _mapping_session(graph, merged, threads=threads)


def _mapping_session(graph: Lowered, weights: Path, *, threads: int) -> Any:
    import onnxruntime

    model = with_mapped_weights(graph, weights)
    options = session_options(threads)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights.parent))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def session_options(threads: int) -> Any:
    """ONNX Runtime's options: so many threads, nothing said on standard error."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin take the cores of the tasks beside.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _model(graph: Lowered, weights: list[TensorProto], *, before: list[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    constants = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    inputs = [helper.make_tensor_value_info(name, graph.dtypes[name], graph.shapes[name]) for name in graph.inputs]
    output = helper.make_tensor_value_info(graph.output, TensorProto.FLOAT, graph.output_shape)
    made = helper.make_graph([*(before or []), *graph.nodes], "ts4s", inputs, [output], [*constants, *weights])
    opsets = [helper.make_opsetid("", graph.opset)]
    return helper.make_model(made, opset_imports=opsets, ir_version=graph.ir_version, producer_name="ts4s")


def _external(name: str, place: tuple[str, list[int], int, int], location: str) -> TensorProto:
    dtype, shape, offset, size = place
    tensor = TensorProto(name=name, data_type=_DTYPES[dtype], dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _dimensions(shape: list[int]) -> list[int]:
    """A shape that ONNX can write down; the library lets any size pass in an empty tensor."""
    if any(size >= 2**63 for size in shape):
        raise ValueError(f"a tensor of shape {shape}")
    return shape


def _places(weights: Path) -> dict[str, tuple[str, list[int], int, int]]:
    """Type, shape, offset and bytes of every tensor in a safetensors file; the library checks the header first."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy"):
            pass
        with weights.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            record = json.loads(file.read(header))
        return {
            name: (entry["dtype"], _dimensions(entry["shape"]), 8 + header + first, last - first)
            for name, entry in record.items()
            if name != "__metadata__"
            for first, last in [entry["data_offsets"]]
        }
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise IntegrityError(f"Reading of weights {weights.name}: expected a whole safetensors file, got {exc}") from exc
