"""The main flow: from labelled text and a base model to a trained, evaluated and, if it is better, promoted model."""

# mypy: disable-error-code="valid-type"
# The groups of parameters are classes that are made when this module is imported, from the settings that the flow uses.
from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from prefect import flow

from flows.lifecycle.approval import ask_approval
from flows.lifecycle.final_state import run_to_final_state
from flows.lifecycle.hold_model import with_model_held
from flows.lifecycle.parameters import ModelName, form_group, settings_of
from tasks.current_run import current_run
from tasks.evaluate import evaluate as evaluate_model
from tasks.export_onnx import export_onnx
from tasks.import_model import import_model
from tasks.prepare_dataset import prepare_dataset
from tasks.publish import publish
from tasks.train_on_spark import train_on_spark
from ts4s_core.artifacts.steps import StepResult
from ts4s_core.evaluation.facts import ReportFacts
from ts4s_core.pipeline.classifier_run import ClassifierRun
from ts4s_core.pipeline.run import Run
from ts4s_core.training.facts import TrainedFacts

FLOW = "retrain"
KINDS = {"export": "onnx", "import": "model", "prepare": "dataset", "train": "trained", "evaluate": "report"}
TRAIN_FACTS = ("steps", "tokens_per_s", "padding_fraction", "seconds", "restarts")


_Data, _Model, _Train = (form_group(FLOW, group) for group in ("data", "model", "train"))
_MoreModel, _MoreData, _MoreTrain = (form_group(FLOW, group) for group in ("more_model", "more_data", "more_train"))
_Evaluate, _Spark, _Storage = (form_group(FLOW, group) for group in ("evaluate", "spark", "storage"))


@flow(name=FLOW, persist_result=False, validate_parameters=False)
def retrain(
    name: ModelName = "default",
    data: _Data = _Data(),  # noqa: B008  frozen; and the form in Prefect's UI shows these defaults
    model: _Model = _Model(),  # noqa: B008
    train: _Train = _Train(),  # noqa: B008
    reuse: bool = True,
    more_model: _MoreModel = _MoreModel(),  # noqa: B008
    more_data: _MoreData = _MoreData(),  # noqa: B008
    more_train: _MoreTrain = _MoreTrain(),  # noqa: B008
    evaluate: _Evaluate = _Evaluate(),  # noqa: B008
    spark: _Spark = _Spark(),  # noqa: B008
    storage: _Storage = _Storage(),  # noqa: B008
) -> dict[str, Any]:
    """Retrain a model: check, export, import and prepare, train, evaluate, publish.

    Args:
        name: the model's name in the registry
        data: the labelled text
        model: the pretrained model
        train: the training step
        reuse: skip steps that were already done with the same inputs and settings
        more_model: the head that is put on the model, and how it is trained on
        more_data: how the text is split and checked
        more_train: workers, optimiser, checkpoints, restarts
        evaluate: the report and the promotion gate
        spark: where Spark runs
        storage: where artifacts are kept; its keys are in the worker's environment

    Returns:
        the result as the command line prints it: status ``done``, ``unchanged`` or ``skipped``, and what was made.
    """
    groups = {"data": data, "model": model, "train": train, "evaluate": evaluate, "spark": spark, "storage": storage}
    groups |= {"more_model": more_model, "more_data": more_data, "more_train": more_train}

    def work() -> dict[str, Any]:
        settings = settings_of(FLOW, groups, name=name, reuse=reuse)
        return with_model_held(settings, lambda: _retrain(current_run(ClassifierRun)))

    return run_to_final_state(work)  # type: ignore[no-any-return]


def _retrain(run: ClassifierRun) -> dict[str, Any]:
    began = time.monotonic()
    made: dict[str, StepResult] = {}
    made["export"] = StepResult.from_json(export_onnx())
    base = str(made["export"].ref)
    # Preparing waits for Spark in another process, so importing goes on meanwhile in this one.
    preparing = prepare_dataset.submit(base)
    try:
        made["import"] = StepResult.from_json(import_model(base))
        made["prepare"] = StepResult.from_json(preparing.result())
    except BaseException:
        run.program.kill()  # ends the waiting thread too
        raise
    dataset = str(made["prepare"].ref)
    made["train"] = StepResult.from_json(train_on_spark(dataset, str(made["import"].ref)))
    trained = str(made["train"].ref)
    seconds = {step: result.seconds for step, result in made.items()}
    made["evaluate"] = StepResult.from_json(evaluate_model(trained, dataset, seconds))
    report = str(made["evaluate"].ref)
    published = publish(trained, report, *ask_approval(run, trained, report))
    return result_of(run, made, published=published, seconds=time.monotonic() - began)


def result_of(
    run: Run,
    made: Mapping[str, StepResult],
    *,
    published: dict[str, Any],
    seconds: float,
    kinds: Mapping[str, str] = KINDS,
) -> dict[str, Any]:
    """The result of a run, from what its steps made or found."""
    facts = TrainedFacts.of(made["train"])
    step_seconds = {step: round(made[step].seconds, 3) if step in made else 0.0 for step in kinds}
    unchanged = all(result.reused for result in made.values()) and not published["new"]
    return {
        "status": "unchanged" if unchanged else "done",
        "model": run.settings.name,
        "version": made["train"].ref.version,
        "promoted": published["promoted"],
        "why": published["why"],
        "weights_sha256": facts.weights_sha256,
        "metrics": ReportFacts.of(made["evaluate"]).metrics,
        "train": {fact: getattr(facts, fact) for fact in TRAIN_FACTS},
        "seconds": step_seconds | {"total": round(seconds, 3)},
        "artifacts": {kind: str(made[step].ref) for step, kind in kinds.items() if step in made},
    }
