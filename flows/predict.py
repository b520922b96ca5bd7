"""The prediction flow, for deployments: a registered model over the rows of a source."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow

from tasks.predict import predict as predict_rows
from tasks.run import joined_run
from ts4s_core.settings import DataSettings, SparkSettings, StorageAddress, TrainSettings, load_settings


@flow(name="predict", persist_result=False)
def predict(
    model: str,
    output: str = "",
    errors: Literal["mark", "refuse"] = "mark",
    embeddings: Literal["none", "mean", "first"] = "none",
    form: Literal["parquet", "vectors"] = "parquet",
    data: DataSettings = DataSettings(),  # noqa: B008  frozen; and the form in Prefect's UI shows these defaults
    train: TrainSettings = TrainSettings(),  # noqa: B008
    spark: SparkSettings = SparkSettings(),  # noqa: B008
    storage: StorageAddress = StorageAddress(),  # noqa: B008
) -> dict[str, Any]:
    """Predict every row of ``data.source`` with ``model`` (NAME, NAME@ALIAS or NAME@VERSION).

    Returns:
        the result as the command line prints it: rows, errors, rows_per_s, output.
    """
    groups = {"data": data, "train": train, "spark": spark, "storage": storage}
    settings = load_settings({group: given.model_dump(exclude_unset=True) for group, given in groups.items()})
    asked: dict[str, str | None] = {"output": output, "errors": errors, "embeddings": embeddings, "form": form}
    with joined_run(settings) as run:
        return predict_rows(str(run.check_prediction(model, asked)), asked)
