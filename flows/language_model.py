"""The second flow: from plain text to a trained, evaluated and, if it is better, promoted language model and a sample of it."""

from __future__ import annotations

import time
from typing import Any

from prefect import flow, get_run_logger, runtime

from flows.retrain import approved, result_of, skipped
from tasks.evaluate import evaluate as evaluate_model
from tasks.language_model import export_decoder, generate_text, import_decoder, language_run, prepare_text
from tasks.language_run import LanguageRun
from tasks.publish import publish
from tasks.run import joined_run
from tasks.train_on_spark import train_on_spark
from ts4s_core.artifacts.lease import Lease
from ts4s_core.errors import LeaseHeldError
from ts4s_core.language.defaults import with_defaults
from ts4s_core.settings import (
    DataSettings,
    EvaluateSettings,
    GenerateSettings,
    ModelSettings,
    SparkSettings,
    StorageAddress,
    TrainSettings,
    load_settings,
)

KINDS = {
    "prepare": "dataset",
    "export": "onnx",
    "import": "model",
    "train": "trained",
    "evaluate": "report",
    "generate": "text",
}


@flow(name="language-model", persist_result=False)
def language_model(
    name: str = "default",
    reuse: bool = True,
    model: ModelSettings = ModelSettings(),  # noqa: B008  frozen; and the form in Prefect's UI shows these defaults
    data: DataSettings = DataSettings(),  # noqa: B008
    train: TrainSettings = TrainSettings(),  # noqa: B008
    evaluate: EvaluateSettings = EvaluateSettings(),  # noqa: B008
    generate: GenerateSettings = GenerateSettings(),  # noqa: B008
    spark: SparkSettings = SparkSettings(),  # noqa: B008
    storage: StorageAddress = StorageAddress(),  # noqa: B008
) -> dict[str, Any]:
    """Train a language model on plain text: check, prepare, export and import, train, evaluate, publish, generate.

    What is not given has the defaults of a language model (``ts4s_core.language.defaults``), not those that the form shows.

    Returns:
        the result as the command line prints it: that of ``retrain``, with ``sample``.
    """
    groups = {
        "model": model,
        "data": data,
        "train": train,
        "evaluate": evaluate,
        "generate": generate,
        "spark": spark,
        "storage": storage,
    }
    given = {group: values.model_dump(exclude_unset=True) for group, values in groups.items()}
    settings = with_defaults(load_settings({"name": name, "reuse": reuse} | given))
    with joined_run(settings):
        run = language_run()
        run.check_text()
        try:
            with Lease.hold(run.store, settings.name, wait=runtime.deployment.id is None):
                return _train(run)
        except LeaseHeldError as exc:
            get_run_logger().info("%s", exc)
            return {**skipped(settings), "sample": None}


def _train(run: LanguageRun) -> dict[str, Any]:
    began = time.monotonic()
    made: dict[str, dict[str, Any]] = {"prepare": prepare_text()}
    dataset = made["prepare"]["ref"]
    exported = export_decoder(dataset)
    if exported is not None:
        made["export"] = exported
    made["import"] = import_decoder(dataset, None if exported is None else exported["ref"])
    made["train"] = train_on_spark(dataset, made["import"]["ref"])
    trained = made["train"]["ref"]
    made["evaluate"] = evaluate_model(trained, dataset, {step: made[step]["seconds"] for step in made})
    published = publish(trained, made["evaluate"]["ref"], approved(run, trained, made["evaluate"]))
    made["generate"] = generate_text(trained, dataset)
    result = result_of(run, made, kinds=KINDS, published=published, seconds=time.monotonic() - began)
    return {**result, "sample": made["generate"]["facts"]["sample"]}
