from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ts4s_core.errors import SourceError, UnsupportedModelError
from ts4s_core.onnx.sources.onnx_file import read_onnx_file


def small_graph(opset: int = 17) -> onnx.ModelProto:
    """``output = input_ids rows of a table``."""
    table = np.arange(1_600, dtype=np.float32).reshape(200, 8)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["output"])],
        "small",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "t"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["b", "t", 8])],
        [numpy_helper.from_array(table, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def external(path: Path, location: str) -> None:
    onnx.save(small_graph(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())


def test_plain_graph_is_taken(tmp_path: Path) -> None:
    onnx.save(small_graph(), tmp_path / "small.onnx")
    model, files = read_onnx_file(tmp_path / "small.onnx", source="s")
    assert [node.op_type for node in model.graph.node] == ["Gather"]
    assert files == []


def test_weights_beside_the_graph_are_found(tmp_path: Path) -> None:
    external(tmp_path / "small.onnx", "weights.bin")
    _, files = read_onnx_file(tmp_path / "small.onnx", source="s")
    assert files == [tmp_path / "weights.bin"]


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "inner/../../weights.bin"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "in").mkdir()
    external(tmp_path / "in" / "small.onnx", location)
    with pytest.raises(SourceError, match="keeps weights outside its folder, which is refused"):
        read_onnx_file(tmp_path / "in" / "small.onnx", source="s")


def test_link_to_weights_outside_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(bytes(6_400))
    external(tmp_path / "in" / "small.onnx", "link.bin")
    (tmp_path / "in" / "link.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceError, match="keeps weights outside its folder"):
        read_onnx_file(tmp_path / "in" / "small.onnx", source="s")


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    external(tmp_path / "small.onnx", "gone.bin")
    with pytest.raises(SourceError, match=r"is incomplete: its weights gone.bin are not beside it"):
        read_onnx_file(tmp_path / "small.onnx", source="s")


@pytest.mark.parametrize("content", [b"", b"no protobuf at all", b"\x08\x08"])
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(SourceError, match=r"model.source s is no ONNX file, or is damaged"):
        read_onnx_file(tmp_path / "bad.onnx", source="s")


@pytest.mark.parametrize("opset", [9, 10, 24])
def test_opset_that_is_not_taken(tmp_path: Path, opset: int) -> None:
    (tmp_path / "old.onnx").write_bytes(small_graph(opset).SerializeToString())
    with pytest.raises(UnsupportedModelError, match=f"has opset {opset}: expected 11 to 23. Export it again"):
        read_onnx_file(tmp_path / "old.onnx", source="s")


def test_graph_that_the_checker_refuses(tmp_path: Path) -> None:
    model = small_graph()
    model.graph.node[0].input[0] = "nowhere"
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SourceError, match=r"is refused by ONNX's checker: .*nowhere"):
        read_onnx_file(tmp_path / "bad.onnx", source="s")


HALF = np.arange(1_600).reshape(200, 8).astype(np.float16)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
@pytest.mark.parametrize(
    ("nodes", "refused"),
    [
        ([("Gather", ["table", "input_ids"], "x"), ("Add", ["x", "x"], "y"), ("Cast", ["y"], "output")], True),
        ([("Constant", [], "c"), ("Mul", ["c", "c"], "y"), ("Cast", ["y"], "output")], True),
        ([("Cast", ["input_ids"], "x", "half"), ("Cast", ["x"], "output")], True),
        ([("Gather", ["table", "input_ids"], "output")], True),
        ([("Gather", ["table", "input_ids"], "x"), ("Cast", ["x"], "y"), ("Add", ["y", "y"], "output")], False),
        ([("Cast", ["table"], "t"), ("Gather", ["t", "input_ids"], "y"), ("Add", ["y", "y"], "output")], False),
    ],
    ids=["of weights", "of a constant", "of the ids", "given out", "looked up and cast", "cast and looked up"],
)
def test_a_graph_that_computes_in_half_precision(tmp_path: Path, kind: int, nodes: list[Any], refused: bool) -> None:
    """Weights may be stored in it; the types of values within are not written down, as some converters leave them out."""
    table = helper.make_tensor("table", kind, [200, 8], HALF.astype(np.float32).ravel())
    made = []
    for operator, inputs, output, *to in nodes:
        options = {"to": kind if to else TensorProto.FLOAT} if operator == "Cast" else {}
        options |= {"value": table} if operator == "Constant" else {}
        made.append(helper.make_node(operator, inputs, [output], **options))
    graph = helper.make_graph(
        made,
        "half",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "t"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["b", "t", 8])],
        [table],
    )
    path = tmp_path / "half.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    if refused:
        with pytest.raises(UnsupportedModelError, match=r"^model\.source s computes in half precision: expected float32"):
            read_onnx_file(path, source="s")
    else:
        assert read_onnx_file(path, source="s")[1] == []
