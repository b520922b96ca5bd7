"""One table of types, for every format: which kinds of cells are a label, a text or an id. What is not in it is refused.

| kind | label | text | id |
| --- | --- | --- | --- |
| text | as it is | as it is | as it is |
| whole number, truth value | as usually written (``1``, ``true``) | refused | as usually written |
| number, decimal | as usually written: ``1``, ``1.0`` and ``1.00`` are one label | refused | as usually written |
| date | refused | refused | ``2024-05-31`` |
| list | several labels, for a multi-label task | refused | as JSON |
| object | refused | refused | as JSON |
| nothing (null, not a number) | an empty label | an empty text | none |
| anything else: bytes, times, timestamps, ... | refused | refused | refused |
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
from typing import Any

import pyarrow as pa

TEXT, WHOLE, NUMBER, DECIMAL, TRUTH = "text", "a whole number", "a number", "a decimal", "a truth value"
DATE, LIST, OBJECT, NOTHING = "a date", "a list", "an object", "nothing"
_NAMED = (TEXT, WHOLE, NUMBER, DECIMAL, TRUTH)
#: Kinds by the setting that names a column.
TABLE: dict[str, tuple[str, ...]] = {
    "text_column": (TEXT, NOTHING),
    "label_column": (*_NAMED, LIST, NOTHING),
    "id_column": (*_NAMED, DATE, LIST, OBJECT, NOTHING),
}
EXPECTED = {
    "text_column": "text",
    "label_column": "text, a number or a truth value (or a list of them, for a multi-label task)",
    "id_column": "text, a number, a truth value or a date",
}
_OF_ARROW = (
    (TEXT, (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)),
    (TRUTH, (pa.types.is_boolean,)),
    (WHOLE, (pa.types.is_integer,)),
    (NUMBER, (pa.types.is_floating,)),
    (DECIMAL, (pa.types.is_decimal,)),
    (DATE, (pa.types.is_date,)),
    (LIST, (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)),
    (OBJECT, (pa.types.is_struct,)),
    (NOTHING, (pa.types.is_null,)),
)


def kind_of_arrow(kind: pa.DataType) -> str:
    """The kind of a column's cells; what the table does not have is called as Arrow does."""
    if pa.types.is_dictionary(kind):
        return kind_of_arrow(kind.value_type)
    found = next((name for name, tests in _OF_ARROW if any(test(kind) for test in tests)), str(kind))
    if found == LIST and kind_of_arrow(kind.value_type) not in (*_NAMED, NOTHING):
        return str(kind)
    return found


def kind_of(cell: object) -> str:
    """The kind of one cell; what the table does not have is called as Python does."""
    if cell is None:
        return NOTHING
    for name, kind in ((TEXT, str), (TRUTH, bool), (WHOLE, int), (NUMBER, float), (DECIMAL, decimal.Decimal), (OBJECT, dict)):
        if isinstance(cell, kind):
            return name
    if isinstance(cell, datetime.date) and not isinstance(cell, datetime.datetime):
        return DATE
    return LIST if isinstance(cell, list) else f"a {type(cell).__name__}"


def refused_type(where: str, column: str, kind: str, *, shown: str, setting: str) -> str | None:
    """Why a typed column cannot be used, or None.

    Args:
        where: what errors call the file or table.
        column: the column's name.
        kind: what its cells are.
        shown: what its format calls the type.
        setting: the setting of the group ``data`` that names the column.
    """
    if kind in TABLE[setting]:
        return None
    return (
        f"{where} has column {column!r} of type {shown}: expected {EXPECTED[setting]}. Set data.{setting}, or write the column "
        "as text (in Spark: cast('string'))"
    )


def plain_text(cell: Any) -> str:
    """A cell of a kind that has one spelling: numbers as they are usually written, so that 1, 1.0 and "1" are one."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, decimal.Decimal):
        # Not normalize(): it rounds to the precision of the context.
        text = format(cell, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(cell)


def is_missing(cell: object) -> bool:
    """Whether a cell is missing: null, or NaN."""
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def id_text(cell: object) -> str | None:
    """An id as text; None: the cell is missing, or of a kind that cannot be an id."""
    kind = kind_of(cell)
    if kind not in TABLE["id_column"] or is_missing(cell):
        return None
    if kind in (LIST, OBJECT, TRUTH):
        try:
            return json.dumps(cell, ensure_ascii=False)
        except (TypeError, ValueError):
            return None
    if isinstance(cell, float):
        return str(cell)
    return str(cell) if kind != DECIMAL else format(cell, "f")
