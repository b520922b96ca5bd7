"""Changes to an ONNX file as the message that it is: fields taken away, doubled, swapped, set to odd values."""

from __future__ import annotations

import random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from mutations import by_bytes

OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""})
INTEGERS = [0, 1, -1, 2, 3, 4, 7, 8, 16, 23, 24, 255, 2**20, 2**31 - 1, 2**40, 2**63 - 1, -(2**63)]
_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32: [0, 1, -1, 6, 7, 9, 10, 11, 16, 22, 2**31 - 1, -(2**31)],
    FieldDescriptor.CPPTYPE_INT64: INTEGERS,
    FieldDescriptor.CPPTYPE_UINT64: [0, 1, 2**64 - 1],
    FieldDescriptor.CPPTYPE_FLOAT: [0.0, 1.0, -1.0, 0.5, float("inf"), float("nan"), 1e-12, 3e38],
    FieldDescriptor.CPPTYPE_DOUBLE: [0.0, 1.0, -1.0, float("inf"), float("nan")],
}


def by_onnx(data: bytes, max_size: int, seed: int) -> bytes:
    """A few changes to the message; now and then to its bytes."""
    chance = random.Random(seed)
    model = onnx.ModelProto()
    if chance.random() < 0.1:
        return by_bytes(data, max_size, seed)
    try:
        model.ParseFromString(data)
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            _change(model, chance)
    except (DecodeError, UnicodeDecodeError):  # a name that is no UTF-8 is parsed, and cannot be read
        return by_bytes(data, max_size, seed)
    changed: bytes = model.SerializeToString()
    return changed if len(changed) <= max_size else data[:max_size]


def _change(model: onnx.ModelProto, chance: random.Random) -> None:
    action = chance.randrange(10)
    graph = model.graph
    if action == 0 and graph.node:
        chance.choice(graph.node).op_type = chance.choice(OPERATORS)
    elif action == 1 and graph.node:
        node = chance.choice(graph.node)
        names = _names(graph)
        if node.input and names:
            node.input[chance.randrange(len(node.input))] = chance.choice(names)
    elif action == 2 and graph.initializer:
        tensor = chance.choice(graph.initializer)
        if tensor.dims:
            tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice(INTEGERS)
    elif action == 3 and len(graph.node) > 1:
        one, other = (chance.randrange(len(graph.node)) for _ in range(2))
        kept = onnx.NodeProto()
        kept.CopyFrom(graph.node[one])
        graph.node[one].CopyFrom(graph.node[other])
        graph.node[other].CopyFrom(kept)
    elif action == 4 and model.opset_import:
        chance.choice(model.opset_import).version = chance.choice([0, 1, 9, 11, 13, 15, 17, 18, 20, 21, 22, 23, 24, 99])
    else:
        _change_field(chance.choice(_messages(model)), chance)


def _names(graph: onnx.GraphProto) -> list[str]:
    return ["", *(name for node in graph.node for name in (*node.input, *node.output)), *(t.name for t in graph.initializer)]


def _messages(message: Any) -> list[Any]:
    found = [message]
    for field, value in message.ListFields():
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            for inner in value if _repeated(field) else [value]:
                found += _messages(inner)
    return found


def _repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _change_field(message: Any, chance: random.Random) -> None:
    fields = [field for field, _ in message.ListFields()] or list(message.DESCRIPTOR.fields)
    if chance.random() < 0.1:
        fields = list(message.DESCRIPTOR.fields)
    field = chance.choice(fields)
    if chance.random() < 0.25:
        message.ClearField(field.name)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        if _repeated(field):
            values = getattr(message, field.name)
            if values and chance.random() < 0.5:
                del values[chance.randrange(len(values))]
            elif values:
                values.add().CopyFrom(chance.choice(values))
    elif _repeated(field):
        values = getattr(message, field.name)
        if values and chance.random() < 0.5:
            values[chance.randrange(len(values))] = _odd(field, chance)
        else:
            values.append(_odd(field, chance))
    else:
        setattr(message, field.name, _odd(field, chance))


def _odd(field: FieldDescriptor, chance: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return chance.choice(["", "a", "x" * 100, "input_ids", "axis", "to", "perm", "output", chance.choice(OPERATORS)])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return chance.choice([b"", b"\x00" * 4, b"\xff" * 16, b"tanh", b"\xff\xfe"])
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return chance.choice([value.number for value in field.enum_type.values])
    return chance.choice(_NUMBERS.get(field.cpp_type, [0]))
