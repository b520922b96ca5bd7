from __future__ import annotations

import dataclasses

import pytest

from ts4s_core.errors import InputError, IntegrityError, SettingsError
from ts4s_core.models.spec import ModelSpec
from ts4s_core.pipeline.classifier_run import ClassifierRun
from ts4s_core.pipeline.language_run import LanguageRun
from ts4s_core.pipeline.training_run import TrainingRun
from ts4s_core.settings import Settings
from ts4s_core.settings.flows import completed
from ts4s_core.task_kinds.classification import CLASSIFICATION
from ts4s_core.task_kinds.kind import TaskKind, load
from ts4s_core.task_kinds.language_model import LANGUAGE_MODEL
from ts4s_core.task_kinds.metrics import BITS_PER_BYTE
from ts4s_core.task_kinds.multi_label import MULTI_LABEL
from ts4s_core.task_kinds.registry import METRICS, TASK_KINDS, TASK_NAMES, kind_of, kind_of_flow, kinds_of_flow

FACETS = (
    "run",
    "completed",
    "scan_job",
    "prepare_job",
    "head",
    "head_nodes",
    "training_rows",
    "objective",
    "class_weights",
    "evaluation",
    "predictions",
)


def test_names_are_the_contract() -> None:
    assert TASK_NAMES == ("classification", "multi-label", "language-model")
    assert Settings().model.task == "classification"
    assert Settings.model_json_schema()["$defs"]["ModelSettings"]["properties"]["task"]["enum"] == list(TASK_NAMES)
    assert [kind.name for kind in kinds_of_flow("retrain")] == ["classification", "multi-label"]
    assert kinds_of_flow("language-model") == (LANGUAGE_MODEL,)


@pytest.mark.parametrize("kind", TASK_KINDS.values(), ids=lambda kind: kind.name)
def test_every_facet_is_there(kind: TaskKind) -> None:
    named = {field.name for field in dataclasses.fields(kind) if str(getattr(kind, field.name)).startswith("ts4s_core.")}
    assert named <= set(FACETS)
    assert all(callable(load(facet)) for name in FACETS if (facet := getattr(kind, name)) is not None)
    assert issubclass(load(kind.run), TrainingRun)


def test_what_tells_the_kinds_apart() -> None:
    assert [kind.labels for kind in TASK_KINDS.values()] == ["one", "many", "none"]
    assert [kind.least_classes for kind in TASK_KINDS.values()] == [2, 1, 0]
    assert [kind.class_weights is not None for kind in TASK_KINDS.values()] == [True, False, False]
    assert LANGUAGE_MODEL.metrics == (BITS_PER_BYTE,)
    assert {name: metric.higher_is_better for name, metric in METRICS.items()} == {
        "accuracy": True,
        "macro_f1": True,
        "loss": False,
        "bits_per_byte": False,
    }


def test_a_task_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="Task 'poetry' is not known: expected classification, multi-label, language-model"):
        kind_of("poetry")
    assert kind_of_flow("retrain") is CLASSIFICATION
    assert kind_of_flow("retrain", "multi-label") is MULTI_LABEL
    with pytest.raises(SettingsError, match=r"language-model does not go with ts4s retrain: .* use ts4s language-model"):
        kind_of_flow("retrain", "language-model")
    with pytest.raises(SettingsError, match=r"multi-label does not go with ts4s language-model: .* use ts4s retrain"):
        kind_of_flow("language-model", "multi-label")


def test_a_model_of_a_task_that_is_none_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "model.json").write_text('{"task": "poetry", "labels": [], "parameters": [], "fixed_shape": null, "classes": 0}')
    with pytest.raises(IntegrityError, match="Task 'poetry' is not known"):
        ModelSpec.read(tmp_path)


def test_a_run_has_the_steps_of_its_kind_alone() -> None:
    public = {run: {name for name in dir(run) if not name.startswith("_")} for run in (TrainingRun, ClassifierRun, LanguageRun)}
    shared = public[TrainingRun]
    assert public[ClassifierRun] - shared == {"check", "scan", "export", "import_model", "prepare"}
    assert public[LanguageRun] - shared == {
        "check_text",
        "scan",
        "prepare_text",
        "export_decoder",
        "import_decoder",
        "generate",
    }
    assert not {"predict", "export", "prepare", "import_model"} & shared


def test_defaults_of_a_kind_have_one_home() -> None:
    plain = Settings()
    assert completed(plain) is plain
    filled = completed(Settings(model={"task": "language-model"}))
    for table in (LANGUAGE_MODEL.defaults, LANGUAGE_MODEL.defaults_of_new):
        for group, values in table.items():
            assert {name: getattr(getattr(filled, group), name) for name in values} == dict(values)
            general = getattr(plain, group)
            assert all(getattr(general, name) != value for name, value in values.items()), (
                "a default that is no other is no default"
            )
