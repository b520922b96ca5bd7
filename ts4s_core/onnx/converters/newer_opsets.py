"""Operators whose newer versions only take more element types: onnx2torch's converter of an older version serves them."""

from __future__ import annotations

from onnx2torch.node_converters.registry import add_converter, get_converter

#: Operator to (version whose converter serves, versions it is registered for as well).
SAME_MEANING: dict[str, tuple[int, tuple[int, ...]]] = {
    "Cast": (13, (19, 21, 23, 24)),
    "Constant": (13, (19, 21, 23, 24)),
    "ConstantOfShape": (9, (20, 21, 23, 24)),
    "Cos": (7, (22,)),
    "Dropout": (13, (22,)),
    "Elu": (6, (22,)),
    "Equal": (13, (19,)),
    "GreaterOrEqual": (12, (16,)),
    "HardSigmoid": (6, (22,)),
    "HardSwish": (14, (22,)),
    "Identity": (16, (19, 21, 23, 24)),
    "IsInf": (10, (20,)),
    "IsNaN": (13, (9, 20)),
    "LessOrEqual": (12, (16,)),
    "Round": (11, (22,)),
    "Selu": (6, (22,)),
    "Shape": (15, (19, 21, 23, 24)),
    "Sin": (7, (22,)),
    "Softplus": (1, (22,)),
    "Softsign": (1, (22,)),
    "Squeeze": (21, (23, 24)),
    "Transpose": (13, (21, 23, 24)),
    "Unsqueeze": (13, (21, 23, 24)),
}

for _operator, (_served_by, _versions) in SAME_MEANING.items():
    for _version in _versions:
        add_converter(operation_type=_operator, version=_version)(get_converter(_operator, _served_by))
