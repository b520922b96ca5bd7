"""An ONNX file made elsewhere: checked, and stored as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts4s_core.errors import SourceError, UnsupportedModelError, listed
from ts4s_core.onnx.graph.protos import graphs_in, opset_of
from ts4s_core.onnx.sources.folder import CONFIG_FILE, content_hash, read_json_object, refuse_pointers

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

OLDEST_OPSET, NEWEST_OPSET = 11, 23


def checked_onnx_file(path: Path, *, source: str) -> tuple[dict[str, Any], str]:
    """The configuration beside an ONNX file (empty without config.json), and a hash of all that belongs to it.

    Raises:
        SourceError, UnsupportedModelError: see :func:`read_onnx_file`.
    """
    _model, external = read_onnx_file(path, source=source)
    beside = path.parent / CONFIG_FILE
    config = read_json_object(beside, source=source) if beside.is_file() else {}
    return config, content_hash([path, *external, *([beside] if config else [])])


def read_onnx_file(path: Path, *, source: str) -> tuple[onnx.ModelProto, list[Path]]:
    """Read and check a graph (without its external weights).

    Returns:
        the graph, and the files beside it that hold its external weights.

    Raises:
        SourceError: if the file is missing, damaged, refused by ONNX's checker, or keeps weights outside its folder.
        UnsupportedModelError: on an opset that is not taken, or half precision.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        raise SourceError(f"model.source {source} does not exist: expected an ONNX file")
    try:
        refuse_pointers([path], setting=f"model.source {source}")
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as exc:
        raise SourceError(f"model.source {source} is no ONNX file, or is damaged: {exc}") from exc
    if not model.graph.node:
        raise SourceError(f"model.source {source} is no ONNX file, or is damaged: expected a graph with nodes, got none")
    external = _external_files(model, path.parent, source=source)
    refuse_pointers(external, setting=f"model.source {source}")
    opset = opset_of(model)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise UnsupportedModelError(
            f"model.source {source} has opset {opset}: expected {OLDEST_OPSET} to {NEWEST_OPSET}. "
            "Export it again with one of these"
        )
    if _computes_in_half(model):
        raise UnsupportedModelError(
            f"model.source {source} computes in half precision: expected float32, in which models are trained. Export it again "
            "from the float32 model, without converting it to float16 (a folder with safetensors in half precision is taken)"
        )
    try:
        onnx.checker.check_model(str(path))
    except Exception as exc:  # the checker's own errors, and whatever its shape inference throws
        raise SourceError(f"model.source {source} is refused by ONNX's checker: {str(exc)[:500]}") from exc
    return model, external


#: Operators that only move values: of half-precision weights they may make what a cast then takes to float32.
_MOVES = frozenset({"Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"})
_MOVES |= {"GatherND", "Tile", "Unsqueeze"}


def _computes_in_half(model: onnx.ModelProto) -> bool:
    """Whether values, not weights alone, are in half precision: the graph casts to it, computes with it, or gives it out."""
    import onnx

    kinds = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    half: set[str] = set()
    for part in graphs_in(model.graph):
        half |= {tensor.name for tensor in part.initializer if tensor.data_type in kinds}
        for node in part.node:
            attributes = {attribute.name: attribute for attribute in node.attribute}
            if node.op_type == "Cast" and attributes["to"].i in kinds:
                return True
            if node.op_type == "Constant" and "value" in attributes and attributes["value"].t.data_type in kinds:
                half |= set(node.output)
            elif half & set(node.input) and node.op_type not in ("Cast", "Shape"):
                if node.op_type not in _MOVES:
                    return True
                half |= set(node.output)
    return any(value.type.tensor_type.elem_type in kinds or value.name in half for value in model.graph.output)


def _external_files(model: onnx.ModelProto, folder: Path, *, source: str) -> list[Path]:
    locations = sorted(set(_locations(model.graph)))
    root = folder.resolve()
    outside = [name for name in locations if Path(name).is_absolute() or root not in (folder / name).resolve().parents]
    if outside:
        raise SourceError(f"model.source {source} keeps weights outside its folder, which is refused: {listed(outside)}")
    missing = [name for name in locations if not (folder / name).is_file()]
    if missing:
        raise SourceError(f"model.source {source} is incomplete: its weights {listed(missing)} are not beside it")
    return [folder / name for name in locations]


def _locations(graph: onnx.GraphProto) -> Iterator[str]:
    import onnx

    for part in graphs_in(graph):
        attributes = [attribute for node in part.node for attribute in node.attribute]
        held = [tensor for attribute in attributes for tensor in (attribute.t, *attribute.tensors)]
        for tensor in (*part.initializer, *held):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                yield from (entry.value for entry in tensor.external_data if entry.key == "location")
