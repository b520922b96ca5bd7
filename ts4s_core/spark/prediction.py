"""A registered model in Spark SQL: as a user-defined function, and over a whole DataFrame.

label = predict_udf(spark, "news@champion", storage={"uri": "s3://models"})
frame.select("id", label("text").label).show()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.data.formats.cell_types import refused_type
from ts4s_core.errors import DataError, listed
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.prediction.job import checked_runtime, layout_of
from ts4s_core.prediction.predict_split import InferenceSpec, model_of
from ts4s_core.prediction.result_table import Layout
from ts4s_core.prediction.source_rows import row_of
from ts4s_core.settings import StorageSettings
from ts4s_core.spark.execution.data_engine import kind_of_spark
from ts4s_core.spark.session import cluster
from ts4s_core.spark.session.column_names import alike
from ts4s_core.spark.session.versions import arrow_function

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class _Predictor:
    """Model and columns, carried to the executors by value."""

    def __init__(self, use: InferenceSpec, layout: Layout) -> None:
        self.use, self.layout = use, layout

    def answers(self, texts: pa.Array) -> pa.Table:
        """The model's columns of some texts; a text that cannot be predicted is marked in ``error``."""
        rows = [row_of(text) for text in texts.to_pylist()]
        table, _marked = self.layout.table(*model_of(self.use).answers(rows))
        return table.drop_columns(["text"])


def predict_udf(
    spark: SparkSession, model: str, *, storage: StorageSettings | Mapping[str, Any] | None = None, embeddings: str = "none"
) -> Any:
    """A function of a text column for Spark SQL; each Python worker loads the model once.

    Its result is a struct: ``label`` and ``probabilities`` (or ``embedding``), ``model_version``, ``error``. Which version an
    alias means is settled now, once.

    Args:
        spark: the session; ``spark.udf.register`` takes the result too.
        model: NAME, NAME@ALIAS or NAME@VERSION.
        storage: where models are kept; default: the folder ``artifacts``.
        embeddings: ``none``, ``mean`` or ``first``.

    Raises:
        NotFoundError: there is no such model.
        DataError: it is a language model.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    predictor = _predictor(spark, model, storage=storage, embeddings=embeddings)
    schema = pa.schema([field for field in predictor.layout.schema if field.name != "text"])

    def run(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
        for texts in batches:
            table = predictor.answers(texts).combine_chunks()
            columns = [table.column(name).combine_chunks() for name in schema.names]
            yield pa.StructArray.from_arrays(columns, fields=list(schema))

    return arrow_function(run, from_arrow_schema(schema))


def predict_frame(
    frame: DataFrame,
    model: str,
    *,
    text_column: str = "text",
    storage: StorageSettings | Mapping[str, Any] | None = None,
    embeddings: str = "none",
) -> DataFrame:
    """A DataFrame with the model's columns behind its own, streamed through ``mapInArrow``; rows stay as they are.

    Args:
        frame: has a column of text.
        model: NAME, NAME@ALIAS or NAME@VERSION.
        text_column: the column of the text.
        storage: where models are kept; default: the folder ``artifacts``.
        embeddings: ``none``, ``mean`` or ``first``.

    Raises:
        NotFoundError: there is no such model.
        DataError: it is a language model, or the frame has no such column, or one that is called as a new one is.
    """
    from pyspark.sql.pandas.types import from_arrow_schema
    from pyspark.sql.types import StructType

    predictor = _predictor(frame.sparkSession, model, storage=storage, embeddings=embeddings)
    made = [field for field in predictor.layout.schema if field.name != "text"]
    place = _place_of_text(frame, text_column, [field.name for field in made])

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            answers = predictor.answers(batch.column(place))
            columns = [*batch.columns, *(answers.column(field.name).combine_chunks() for field in made)]
            yield pa.RecordBatch.from_arrays(columns, names=[*batch.schema.names, *(field.name for field in made)])

    added = from_arrow_schema(pa.schema(made))
    # By number: mapInArrow looks its columns up by name, where a dot means a field of a struct and two may be called alike.
    numbered = frame.toDF(*(f"c{number}" for number in range(len(frame.columns))))
    return numbered.mapInArrow(run, StructType([*frame.schema.fields, *added.fields]))


def _place_of_text(frame: DataFrame, text_column: str, made: Sequence[str]) -> int:
    """The number of the text's column.

    Raises:
        DataError: if there is no one such column or it holds no text, or a column is called as a new one is.
    """
    session, columns = frame.sparkSession, frame.columns
    found = alike(session, columns, text_column)
    taken = [column for name in made for column in alike(session, columns, name)]
    if len(found) != 1 or taken:
        raise DataError(
            f"Prediction over a DataFrame: expected a column {text_column!r} and none of {list(made)}, got {columns}"
            f"{f', of which the session takes {listed(map(repr, taken))} for new ones' if taken else ''}. Rename columns"
        )
    kind = frame.schema.fields[columns.index(found[0])].dataType
    problem = refused_type("The DataFrame", found[0], kind_of_spark(kind), shown=kind.simpleString(), setting="text_column")
    if problem:
        raise DataError(problem)
    return columns.index(found[0])


def _predictor(
    spark: SparkSession, model: str, *, storage: StorageSettings | Mapping[str, Any] | None, embeddings: str
) -> _Predictor:
    store = ArtifactStore.open(storage if isinstance(storage, StorageSettings) else StorageSettings(**(storage or {})))
    ref = Registry(store).resolve(model)
    opened = ModelFolder(store.local(ref))
    layout = layout_of(opened.spec, ref, embeddings=embeddings, has_id=False)
    output: Any = "logits" if embeddings == "none" else embeddings
    threads = cluster.task_cpus(spark)
    runtime = checked_runtime(opened, embeddings=embeddings)  # type: ignore[arg-type]
    use = InferenceSpec(store.storage.settings, str(ref), output, runtime, threads)
    return _Predictor(use, layout)
