"""Columns of a DataFrame as what modules take: numbers of a row in one array, or a text; labels of any form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ts4s_core.errors import DataError, listed

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def input_column(frame: DataFrame, names: Sequence[str], *, text: bool, whole: bool) -> tuple[Column, list[Column]]:
    """The input of each row, and how many numbers each column brings to it.

    Args:
        frame: the rows.
        names: the input columns.
        text: whether it is one text column.
        whole: whether numbers are integers.

    Returns:
        an array of numbers (null if a column or a number in it is null), or a text; and a width a column.

    Raises:
        DataError: on a missing column, or one of another type.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.types import StringType

    check_columns(frame, names)
    if text:
        if len(names) != 1 or not isinstance(frame.schema[names[0]].dataType, StringType):
            raise DataError(f"Input of a tokenizer: expected one text column, got {listed(names)}. Set inputCol")
        return frame[f"`{names[0]}`"], []
    arrays = [_numbers(frame, name, "int" if whole else "float") for name in names]
    joined = arrays[0] if len(arrays) == 1 else F.concat(*arrays)
    missing = F.exists(joined, lambda value: value.isNull())
    return F.when(joined.isNotNull() & ~missing, joined), [F.size(array) for array in arrays]


def label_kind(frame: DataFrame, name: str) -> str:
    """What a label column holds: ``text``, ``number`` or ``vector``.

    Raises:
        DataError: if it is not there or holds something else.
    """
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql.types import ArrayType, BooleanType, NumericType, StringType

    check_columns(frame, [name])
    kind = frame.schema[name].dataType
    if isinstance(kind, StringType):
        return "text"
    if isinstance(kind, (NumericType, BooleanType)):
        return "number"
    if isinstance(kind, (VectorUDT, ArrayType)):
        return "vector"
    raise DataError(f"Label column {name} is {kind.simpleString()}: expected a number, a string, a vector or an array")


def label_column(frame: DataFrame, name: str, *, kind: str) -> Column:
    """The label of each row.

    Args:
        frame: the rows.
        name: the label column.
        kind: ``text``: as it is; ``class``: a bigint (negative where the number is no class); ``vector``: an array of numbers.
    """
    from pyspark.sql import functions as F

    column = frame[f"`{name}`"]
    if kind == "text":
        return column
    if kind == "class":
        number = column.cast("double")
        return F.when(number == F.floor(number), number.cast("bigint")).when(number.isNotNull(), F.lit(-1).cast("bigint"))
    return _numbers(frame, name, "float")


def check_columns(frame: DataFrame, names: Sequence[str]) -> None:
    """Refuse columns that are not there.

    Raises:
        DataError: naming them.
    """
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise DataError(f"The table has no column {listed(missing)}: it has {listed(frame.columns)}. Set inputCol and labelCol")


def _numbers(frame: DataFrame, name: str, element: str) -> Column:
    from pyspark.ml.functions import vector_to_array
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType, BooleanType, NumericType

    column: Any = frame[f"`{name}`"]
    kind = frame.schema[name].dataType
    if isinstance(kind, VectorUDT):
        # The function does not take null.
        return F.when(column.isNotNull(), vector_to_array(column, "float64").cast(f"array<{element}>"))
    if isinstance(kind, ArrayType) and isinstance(kind.elementType, (NumericType, BooleanType)):
        return F.when(column.isNotNull(), column.cast(f"array<{element}>"))
    if isinstance(kind, (NumericType, BooleanType)):
        return F.when(column.isNotNull(), F.array(column.cast(element)))
    raise DataError(
        f"Column {name} is {kind.simpleString()}: expected a vector, an array of numbers or a number. "
        "Use VectorAssembler, or set tokenizer for a text"
    )
