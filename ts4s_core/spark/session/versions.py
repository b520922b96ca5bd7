"""What differs between the versions of PySpark that ts4s works with, 3.5 to 4.x."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

Serve = Callable[[Iterator[Any]], Iterator[pa.Array]]


def arrow_function(serve: Serve, return_type: Any) -> Any:
    """A function of columns for Spark SQL that sees their rows as a stream of Arrow arrays.

    PySpark has ``arrow_udf`` since 4.1; before, the rows come as pandas' series and go as its frames.

    Args:
        serve: from batches, of one column an array, of several a tuple of them, to batches of structs, as many rows each.
        return_type: a struct type, or its text.
    """
    from pyspark.sql import functions

    arrow_udf = getattr(functions, "arrow_udf", None)
    if arrow_udf is not None:
        serve.__annotations__ = {"batches": Iterator[pa.Array], "return": Iterator[pa.Array]}
        return arrow_udf(serve, return_type)
    import pandas as pd

    def by_pandas(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        one = pa.Array.from_pandas
        arrays = (tuple(map(one, batch)) if isinstance(batch, tuple) else one(batch) for batch in batches)
        for structs in serve(arrays):
            columns = {structs.type.field(at).name: structs.field(at).to_pandas() for at in range(structs.type.num_fields)}
            yield pd.DataFrame(columns)

    by_pandas.__annotations__ = {"batches": Iterator[pd.Series], "return": Iterator[pd.DataFrame]}
    pandas_udf: Any = getattr(functions, "pandas_udf")  # noqa: B009  pyspark gives it no type
    return pandas_udf(by_pandas, return_type)
