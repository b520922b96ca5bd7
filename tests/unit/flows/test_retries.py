from __future__ import annotations

import pytest
from prefect.states import Failed

from flows.retrain import retrain
from tasks.prefect_ui.show import artifact_key
from tasks.step import may_help
from tasks.train_on_spark import train_on_spark
from ts4s_core.errors import ConflictError, DataError, IntegrityError, ParityError, SparkError, StoreError, TrainingError


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (StoreError("the network was away"), True),
        (ConflictError("there already"), False),
        (IntegrityError("damaged"), False),
        (DataError("bad rows"), False),
        (ParityError("differs"), False),
        (TrainingError("worker died"), False),
        (SparkError("no Java"), False),
        (RuntimeError("a mistake in the program"), False),
    ],
)
def test_a_retry_is_for_the_store_alone(error: Exception, helps: bool) -> None:
    assert may_help(None, None, Failed(data=error)) is helps


def test_training_restarts_itself() -> None:
    assert train_on_spark.retries == 0


def test_prefect_takes_the_keys() -> None:
    assert artifact_key("trained", "My_Model.v2") == "trained-my-model-v2"


def test_the_form_has_the_settings_with_help_and_bounds_and_no_secrets() -> None:
    schema = retrain.parameters.model_dump()
    assert set(schema["properties"]) == {
        *("name", "reuse", "model", "data", "train", "evaluate", "spark", "storage"),
        *("more_model", "more_data", "more_train"),
    }
    groups = schema["definitions"]
    assert groups["TrainSettings"]["properties"]["batch_size"]["description"] == "rows in a global batch"
    assert groups["TrainSettings"]["properties"]["batch_size"]["minimum"] == 1
    assert groups["MoreModelSettings"]["properties"]["task"]["enum"] == ["classification", "multi-label"]
    assert not {"key", "secret"} & set(groups["StorageSettings"]["properties"])
