"""Columns of a DataFrame as what modules take: numbers of a row in one array, or a text; labels of any form."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ts4s_core.errors import DataError, listed
from ts4s_core.modules.inputs import IDS, MASK, InputForm, named_arguments, token_form
from ts4s_core.spark.session.column_names import alike, quoted
from ts4s_core.spark.session.versions import arrow_function

#: What ``handleInvalid`` is for. Null and not a number are invalid to Spark ML's own stages too; the others, which no module can
#: make sense of, are ours.
OR_INVALID = "or NaN, an infinite number, a NUL character"
#: Of the struct that Spark's image reader gives, what its bytes are understood by.
_IMAGE_FIELDS = {"height", "width", "nChannels", "data"}

#: What the type of a vector is as a number, in Spark ML's own form of it.
_DENSE = 1

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType


def input_column(frame: DataFrame, names: Sequence[str], *, text: bool, whole: bool) -> tuple[Column, list[Column]]:
    """The input of each row, and how many numbers each column brings to it.

    Args:
        frame: the rows.
        names: the input columns.
        text: whether it is one text column.
        whole: whether numbers are integers.

    Returns:
        an array of numbers (null where a number is invalid, see ``OR_INVALID``), or a text (null if it has a NUL character); and
        a width a column.

    Raises:
        DataError: on a missing column, or one of another type.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.types import StringType

    check_columns(frame, names)
    if text:
        words, kind = column_of(frame, names[0])
        if len(names) != 1 or not isinstance(kind, StringType):
            raise DataError(f"Input of a tokenizer: expected one text column, got {listed(names)}. Set inputCol")
        return F.when(~words.contains("\0"), words), []
    found = [_numbers(frame, name, "int" if whole else "float") for name in names]
    joined = found[0].array if len(found) == 1 else F.concat(*(numbers.array for numbers in found))
    return F.when(functools.reduce(operator.and_, (numbers.valid for numbers in found)), joined), [one.size for one in found]


def settled_form(
    frame: DataFrame, form: InputForm, forward: Callable[..., Any], *, columns: Sequence[str], names: Sequence[str], look: bool
) -> InputForm:
    """A form with the names of forward's arguments, and tokens where the columns are arrays of token ids.

    They are if they are arrays of integers of unlike length, or such and given to forward by name, or given to an argument
    ``input_ids``.

    Args:
        frame: the rows.
        form: as the Params say.
        forward: the module's.
        columns: the input columns.
        names: ``inputNames``.
        look: whether the rows may be looked at, which is a job; else, arrays of integers that are whole numbers are tokens.

    Raises:
        SettingsError: if forward has no argument of a name.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType, IntegralType

    check_columns(frame, columns)
    if form.text:
        parameters = list(inspect.signature(forward).parameters)
        by_name = {IDS, MASK} <= set(parameters) and parameters[:2] != [IDS, MASK]
        return replace(form, names=(IDS, MASK) if by_name else ())
    if not form.separate or names:
        form = replace(form, names=named_arguments(forward, columns, given=names))
    found = [column_of(frame, name) for name in columns]
    if form.shape or not all(
        isinstance(kind, ArrayType) and isinstance(kind.elementType, IntegralType) for _column, kind in found
    ):
        return form
    tokens = bool(form.names) or next(iter(inspect.signature(forward).parameters), "") == IDS
    if not tokens and look:
        sizes = [F.size(column) for column, _kind in found]
        ends = frame.agg(*(end(F.when(size >= 0, size)) for size in sizes for end in (F.min, F.max))).first()
        tokens = ends is not None and any(ends[2 * at] != ends[2 * at + 1] for at in range(len(columns)))
    elif not tokens:
        tokens = form.whole and len(columns) == 1
    return token_form(form, forward, columns=len(columns)) if tokens else form


def label_kind(frame: DataFrame, name: str) -> str:
    """What a label column holds: ``text``, ``number`` or ``vector``.

    Raises:
        DataError: if it is not there or holds something else.
    """
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql.types import ArrayType, BooleanType, NumericType, StringType

    _column, kind = column_of(frame, name)
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
        kind: ``text``: as it is; ``class``: a bigint (negative where the number is not a class); ``vector``: an array of numbers.

    Returns:
        null where it is invalid (see ``OR_INVALID``).
    """
    from pyspark.sql import functions as F

    column, _type = column_of(frame, name)
    if kind == "text":
        return F.when(~column.contains("\0"), column)
    if kind == "class":
        number = column.cast("double")
        whole = F.when(number == F.floor(number), number.cast("bigint")).otherwise(F.lit(-1).cast("bigint"))
        return F.when(_is_finite(number), whole)
    numbers = _numbers(frame, name, "float")
    return F.when(numbers.valid, numbers.array)


def check_columns(frame: DataFrame, names: Sequence[str]) -> None:
    """Refuse columns that are not there.

    Raises:
        DataError: naming them.
    """
    missing = [name for name in names if _found(frame, name) is None]
    if missing:
        raise DataError(f"The table has no column {listed(missing)}: it has {listed(frame.columns)}. Set inputCol and labelCol")


def column_of(frame: DataFrame, name: str) -> tuple[Column, DataType]:
    """A column and its type, by its name or, for a field of a struct column, by its path (``s.features``).

    Raises:
        DataError: if it is not there.
    """
    check_columns(frame, [name])
    found = _found(frame, name)
    assert found is not None, "its name was checked"
    return found


def weight_column(frame: DataFrame, name: str) -> Column:
    """The weight of each row, a float; null where it is invalid, or negative.

    Raises:
        DataError: if it is not there, or no number.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.types import NumericType

    column, kind = column_of(frame, name)
    if not isinstance(kind, NumericType):
        raise DataError(f"Weight column {name} is {kind.simpleString()}: expected a number. Set weightCol")
    weight = column.cast("float")
    return F.when(_is_finite(weight) & (weight >= 0), weight)


def _found(frame: DataFrame, name: str) -> tuple[Column, DataType] | None:
    """A column whose name this is, dots included; else the field that the longest such beginning of it leads to."""
    from pyspark.sql.types import StructType

    pieces = name.split(".")
    for cut in range(len(pieces), 0, -1):
        first = alike(frame.sparkSession, frame.columns, ".".join(pieces[:cut]))
        if len(first) != 1:
            continue
        column, kind = frame[quoted(first[0])], frame.schema[first[0]].dataType
        for piece in pieces[cut:]:
            fields = alike(frame.sparkSession, kind.names, piece) if isinstance(kind, StructType) else []
            if len(fields) != 1:
                break
            column, kind = column.getField(fields[0]), kind[fields[0]].dataType  # type: ignore[index]
        else:
            return column, kind
    return None


def _is_finite(number: Column) -> Column:
    """Whether a float or a double is neither null (then this is null) nor NaN nor infinite: one operation, for speed."""
    return number - number == 0


def _all_finite(numbers: Column, kind: str) -> Column:
    """Whether the numbers of an array, as ``float`` or ``double``, are; null or false if not, or if one is null.

    In functions that Spark compiles, the cast in none that it evaluates by condition alone, or it would be done for each of them
    anew; ``forall`` would make an object of each number. To Spark, NaN is above all numbers.
    """
    from pyspark.sql import functions as F

    seen = numbers.cast(f"array<{kind}>")
    infinite, not_a_number = (F.lit(float(name)).cast(kind) for name in ("inf", "nan"))
    finite = (F.array_min(seen) > -infinite) & (F.array_max(seen) < infinite)
    no_null = ~F.array_contains(seen, not_a_number)  # null if one is, and this is not among them
    return F.coalesce(finite, F.size(seen) == 0) & no_null  # the least of no numbers is null


@dataclass(frozen=True)
class _Numbers:
    """The numbers that a column brings to a row as an array, how many, and whether all are valid (or null, if not)."""

    array: Column
    size: Column
    valid: Column


def _numbers(frame: DataFrame, name: str, element: str) -> _Numbers:
    from pyspark.ml.functions import vector_to_array
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType, BinaryType, BooleanType, NumericType, StructType

    column: Any
    column, kind = column_of(frame, name)
    if isinstance(kind, StructType) and set(kind.names) >= _IMAGE_FIELDS:
        column, kind = column.getField("data"), kind["data"].dataType
    if isinstance(kind, BinaryType):
        numbers = arrow_function(_numbers_of_bytes(element), f"struct<numbers:array<{element}>>")(column)["numbers"]
        return _Numbers(numbers, F.size(numbers), numbers.isNotNull())
    # As they will be: a large double is an infinite float. Whole numbers are checked before, since their cast refuses NaN.
    seen = "double" if element == "int" else "float"
    if isinstance(kind, (NumericType, BooleanType)):
        return _Numbers(F.array(column.cast(element)), F.lit(1), _is_finite(column.cast(seen)))
    if isinstance(kind, VectorUDT):
        # The function takes no null, and an object for each number: of a dense vector they lie there as an array.
        inner = F.unwrap_udt(column)
        numbers = F.when(inner["type"] == _DENSE, inner["values"]).otherwise(vector_to_array(column, "float64"))
        column = F.when(column.isNotNull(), numbers)
    elif not (isinstance(kind, ArrayType) and isinstance(kind.elementType, (NumericType, BooleanType))):
        raise DataError(
            f"Column {name} is {kind.simpleString()}: expected a vector, an array of numbers or a number. "
            "Use VectorAssembler, or set tokenizer for a text"
        )
    return _Numbers(column.cast(f"array<{element}>"), F.size(column), _all_finite(column, seen))


def _numbers_of_bytes(element: str) -> Any:
    """The function of Arrow batches that gives each row's bytes as numbers from 0 to 255; null stays null."""
    kind = np.int32 if element == "int" else np.float32

    def serve(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
        for batch in batches:
            rows = [row or b"" for row in batch.to_pylist()]
            offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
            ends = pa.array(offsets, mask=np.append(np.asarray(batch.is_null()), False))
            numbers = np.frombuffer(b"".join(rows), np.uint8).astype(kind)
            yield pa.StructArray.from_arrays([pa.ListArray.from_arrays(ends, pa.array(numbers))], ["numbers"])

    return serve
