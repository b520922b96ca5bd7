"""The second flow: from plain text to a trained, evaluated and, if it is better, promoted language model and a sample of it."""

# mypy: disable-error-code="valid-type"
# The groups of parameters are classes that are made when this module is imported, from the settings that the flow uses.
from __future__ import annotations

import time
from typing import Any

from prefect import flow

from flows.lifecycle.approval import ask_approval
from flows.lifecycle.final_state import run_to_final_state
from flows.lifecycle.hold_model import with_model_held
from flows.lifecycle.parameters import ModelName, form_group, settings_of
from flows.retrain import result_of
from tasks.current_run import current_run
from tasks.evaluate import evaluate as evaluate_model
from tasks.export_decoder import export_decoder
from tasks.generate_text import generate_text
from tasks.import_decoder import import_decoder
from tasks.prepare_text import prepare_text
from tasks.publish import publish
from tasks.train_on_spark import train_on_spark
from ts4s_core.artifacts.steps import StepResult
from ts4s_core.language.defaults import with_defaults
from ts4s_core.language.facts import TextFacts
from ts4s_core.pipeline.language_run import LanguageRun

FLOW = "language-model"
KINDS = {
    "prepare": "dataset",
    "export": "onnx",
    "import": "model",
    "train": "trained",
    "evaluate": "report",
    "generate": "text",
}


_Data, _Model, _Train = (form_group(FLOW, group) for group in ("data", "model", "train"))
_MoreModel, _MoreData, _MoreTrain = (form_group(FLOW, group) for group in ("more_model", "more_data", "more_train"))
_Evaluate, _Generate = (form_group(FLOW, group) for group in ("evaluate", "generate"))
_Spark, _Storage = (form_group(FLOW, group) for group in ("spark", "storage"))


@flow(name=FLOW, persist_result=False, validate_parameters=False)
def language_model(
    name: ModelName = "default",
    data: _Data = _Data(),  # noqa: B008  frozen; and the form in Prefect's UI shows these defaults
    model: _Model = _Model(),  # noqa: B008
    train: _Train = _Train(),  # noqa: B008
    reuse: bool = True,
    more_model: _MoreModel = _MoreModel(),  # noqa: B008
    more_data: _MoreData = _MoreData(),  # noqa: B008
    more_train: _MoreTrain = _MoreTrain(),  # noqa: B008
    evaluate: _Evaluate = _Evaluate(),  # noqa: B008
    generate: _Generate = _Generate(),  # noqa: B008
    spark: _Spark = _Spark(),  # noqa: B008
    storage: _Storage = _Storage(),  # noqa: B008
) -> dict[str, Any]:
    """Train a language model on plain text: check, prepare, export and import, train, evaluate, publish, generate.

    Args:
        name: the model's name in the registry
        data: the text, and the windows it is read in
        model: the network, built in or pretrained
        train: the training step
        reuse: skip steps that were already done with the same inputs and settings
        more_model: tokenizer, sizes of the network, dropout, adapters
        more_data: how the text is cut and split
        more_train: workers, optimiser, checkpoints, restarts
        evaluate: the report and the promotion gate
        generate: the sample that is written at the end
        spark: where Spark runs
        storage: where artifacts are kept; its keys are in the worker's environment

    Returns:
        the result as the command line prints it: that of ``retrain``, with ``sample``.
    """
    groups = {"data": data, "model": model, "train": train, "evaluate": evaluate, "generate": generate}
    groups |= {"spark": spark, "storage": storage}
    groups |= {"more_model": more_model, "more_data": more_data, "more_train": more_train}

    def work() -> dict[str, Any]:
        settings = with_defaults(settings_of(FLOW, groups, name=name, reuse=reuse))
        result = with_model_held(settings, lambda: _train(current_run(LanguageRun)))
        return {**result, "sample": result.get("sample")}

    return run_to_final_state(work)  # type: ignore[no-any-return]


def _train(run: LanguageRun) -> dict[str, Any]:
    began = time.monotonic()
    made = {"prepare": StepResult.from_json(prepare_text())}
    dataset = str(made["prepare"].ref)
    exported = export_decoder(dataset)
    if exported is not None:
        made["export"] = StepResult.from_json(exported)
    made["import"] = StepResult.from_json(import_decoder(dataset, None if exported is None else exported["ref"]))
    made["train"] = StepResult.from_json(train_on_spark(dataset, str(made["import"].ref)))
    trained = str(made["train"].ref)
    seconds = {step: result.seconds for step, result in made.items()}
    made["evaluate"] = StepResult.from_json(evaluate_model(trained, dataset, seconds))
    report = str(made["evaluate"].ref)
    published = publish(trained, report, *ask_approval(run, trained, report))
    made["generate"] = StepResult.from_json(generate_text(trained, dataset))
    result = result_of(run, made, kinds=KINDS, published=published, seconds=time.monotonic() - began)
    return {**result, "sample": TextFacts.of(made["generate"]).sample}
