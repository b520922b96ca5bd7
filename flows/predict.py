"""The prediction flow, for deployments: a registered model over the rows of a source."""

# mypy: disable-error-code="valid-type"
# The groups of parameters are classes that are made when this module is imported, from the settings that the flow uses.
from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows.lifecycle.final_state import run_to_final_state
from flows.lifecycle.parameters import form_group, settings_of
from tasks.current_run import begun
from tasks.predict import predict as predict_rows
from tasks.prefect_ui.run_log import run_log
from ts4s_core.pipeline.prediction_run import PredictionRun
from ts4s_core.prediction.options import Embeddings, Errors, Form, PredictOptions
from ts4s_core.settings import Settings

FLOW = "predict"
_Data, _Train = (form_group(FLOW, group) for group in ("data", "train"))
_MoreData, _MoreTrain = (form_group(FLOW, group) for group in ("more_data", "more_train"))
_Spark, _Storage = (form_group(FLOW, group) for group in ("spark", "storage"))


@flow(name=FLOW, persist_result=False, validate_parameters=False)
def predict(
    model: Annotated[str, Field(min_length=1)],
    output: str = PredictOptions.output,
    errors: Errors = PredictOptions.errors,
    embeddings: Embeddings = PredictOptions.embeddings,
    form: Form = PredictOptions.form,
    data: _Data = _Data(),  # noqa: B008  frozen; and the form in Prefect's UI shows these defaults
    train: _Train = _Train(),  # noqa: B008
    more_data: _MoreData = _MoreData(),  # noqa: B008
    more_train: _MoreTrain = _MoreTrain(),  # noqa: B008
    spark: _Spark = _Spark(),  # noqa: B008
    storage: _Storage = _Storage(),  # noqa: B008
) -> dict[str, Any]:
    """Predict every row of ``data.source`` with a trained model.

    Args:
        model: NAME, NAME@ALIAS or NAME@VERSION; plain NAME is the champion, else the newest trained version
        output: new folder or s3:// prefix for the result; empty, a sealed predictions artifact
        errors: rows that cannot be predicted, marked in the column error, or refused
        embeddings: in place of labels a vector, the mean of the tokens' or the first one's
        form: parquet, or vectors, the text form of word vectors, for embeddings
        data: the rows, which need no labels
        train: threads of a task
        more_data: what messages may quote of the rows
        more_train: how long a task may be silent
        spark: where Spark runs
        storage: where artifacts are kept; its keys are in the worker's environment

    Returns:
        the result as the command line prints it: rows, errors, rows_per_s, output.
    """
    groups = {"data": data, "train": train, "spark": spark, "storage": storage, "more_data": more_data, "more_train": more_train}
    given = {"output": output, "errors": errors, "embeddings": embeddings, "form": form}
    return run_to_final_state(lambda: _predict(settings_of(FLOW, groups), model, PredictOptions.of(given)))  # type: ignore[no-any-return]


def _predict(settings: Settings, model: str, options: PredictOptions) -> dict[str, Any]:
    with begun(PredictionRun(settings)) as run, run_log():
        return predict_rows(str(run.check(model, options)), asdict(options))
