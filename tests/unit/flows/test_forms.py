"""What Prefect's form shows of a flow's parameters, and which parameters it takes."""

from __future__ import annotations

from typing import Any

import pytest
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.language_model import language_model
from flows.lifecycle.parameters import as_parameters, settings_of
from flows.predict import predict
from flows.retrain import retrain
from flows.watch import watch
from ts4s_core.errors import SettingsError
from ts4s_core.language.defaults import with_defaults
from ts4s_core.settings import Settings
from ts4s_core.settings.flows import defaults_of, flow_settings, value_of
from ts4s_core.settings.load import SECRET_FIELDS

FLOWS: dict[str, Flow[..., Any]] = {flow.name: flow for flow in (retrain, language_model, predict, watch)}
GROUPS = ("data", "model", "train", "evaluate", "generate", "spark", "storage")


def schema_of(flow: str) -> dict[str, Any]:
    return parameter_schema(FLOWS[flow]).model_dump(exclude_unset=True, mode="json")


def shown(flow: str) -> dict[str, dict[str, Any]]:
    """Fields of each group of the form, in the order of the form."""
    schema = schema_of(flow)
    found = {}
    for parameter, entry in sorted(schema["properties"].items(), key=lambda item: item[1]["position"]):
        reference = entry.get("$ref") or entry.get("allOf", [{}])[0].get("$ref", "")
        if reference:
            found[parameter] = schema["definitions"][reference.rpartition("/")[2]]["properties"]
    return found


def old(flow: str) -> dict[str, Any]:
    """Every setting of the groups that the parameters were before, as a deployment of then has them stored."""
    everything = with_defaults(Settings()) if flow == "language-model" else Settings()
    plain = everything.plain()
    had = {
        "retrain": GROUPS,
        "language-model": GROUPS,
        "predict": ("data", "train", "spark", "storage"),
        "watch": ("data", "storage"),
    }
    return {group: plain[group] for group in had[flow] if group != "generate" or flow == "language-model"}


@pytest.mark.parametrize("flow", FLOWS)
def test_a_form_shows_what_bears_in_that_order(flow: str) -> None:
    fields = [(group.removeprefix("more_"), name) for group, values in shown(flow).items() for name in values]
    names = [f"{group}.{name}" for group, name in fields]
    settings = flow_settings(flow)
    secrets = {".".join(place) for place in SECRET_FIELDS}
    assert set(names) == {name for name in settings.names if "." in name} - secrets
    assert len(names) == len(set(names))
    groups = list(dict.fromkeys(name.partition(".")[0] for name in settings.first))
    assert names[: len(settings.first)] == sorted(settings.first, key=lambda name: groups.index(name.partition(".")[0]))


def test_the_form_of_retrain_shows_nothing_of_language_models() -> None:
    groups = shown("retrain")
    assert list(groups) == ["data", "model", "train", "more_model", "more_data", "more_train", "evaluate", "spark", "storage"]
    assert list(groups["data"]) == ["source", "format", "text_column", "label_column"]
    assert list(groups["model"]) == ["source", "max_length"]
    assert list(groups["train"]) == ["epochs", "learning_rate", "batch_size", "workers"]
    assert list(groups["more_model"]) == [
        *("task", "tokenizer", "classes", "dropout", "attention_dropout", "freeze_encoder", "lora_rank", "lora_alpha"),
        "class_weights",
    ]
    assert groups["more_model"]["task"]["enum"] == ["classification", "multi-label"]
    assert list(groups["evaluate"]) == ["metric", "min_improvement", "max_drift", "require_approval"]


@pytest.mark.parametrize("flow", FLOWS)
def test_a_form_shows_the_defaults_that_are_used(flow: str) -> None:
    effective, properties = defaults_of(flow), schema_of(flow)["properties"]
    submitted = {}
    for parameter, fields in shown(flow).items():
        submitted[parameter] = properties[parameter]["default"]
        for name, field in fields.items():
            value = value_of(effective, f"{parameter.removeprefix('more_')}.{name}")
            plain = list(value) if isinstance(value, tuple) else value
            assert field.get("default") == submitted[parameter][name] == plain
    settings = settings_of(flow, submitted)
    assert (with_defaults(settings) if flow == "language-model" else settings) == effective


@pytest.mark.parametrize("flow", FLOWS)
def test_parameters_of_deployments_that_were_made_before_are_taken(flow: str) -> None:
    """By the server, which looks at them when a run is made, and by the flow; what does not bear has no effect."""
    parameters = old(flow)
    validate(parameters, schema_of(flow), raise_on_error=True, ignore_required=True)
    settings = settings_of(flow, parameters)
    assert (with_defaults(settings) if flow == "language-model" else settings) == defaults_of(flow)
    changed = {**parameters, "data": {**parameters["data"], "show_text": False, "block_bytes": 4_096}}
    found = settings_of(flow, changed).data
    assert (found.show_text, found.block_bytes) == (False, 4_096 if flow == "language-model" else 0)


def test_a_name_that_is_none_is_refused_by_the_server_and_by_the_flow() -> None:
    for parameters in ({"model": {"sauce": "x"}}, {"more_model": {"sauce": "x"}}, {"storage": {"secret": "x"}}):
        with pytest.raises(ValidationError):
            validate(parameters, schema_of("retrain"), raise_on_error=True, ignore_required=True)
        with pytest.raises(SettingsError, match=r"model\.sauce is not a setting|storage\.secret is a secret"):
            settings_of("retrain", parameters)
    with pytest.raises(SettingsError, match=r"train: input should be"):
        settings_of("retrain", {"train": 3})


def test_both_places_of_a_group_are_one_group() -> None:
    settings = settings_of("retrain", {"train": {"epochs": 3}, "more_train": {"seed": 2, "epochs": 3}})
    assert (settings.train.epochs, settings.train.seed) == (3, 2)
    # As a script does that starts a run of a deployment from before the two groups: its own values, over the deployment's.
    for first, second in (("train", "more_train"), ("more_train", "train")):
        both = {"train": {"epochs": 3, "seed": 5}, "more_train": {"epochs": 4, "seed": 6, "max_steps": 7}}
        settings = settings_of("retrain", {first: both[first], second: both[second]})
        assert (settings.train.epochs, settings.train.seed, settings.train.max_steps) == (4, 5, 7)
        with pytest.raises(SettingsError, match=r"train: input should be"):
            settings_of("retrain", {first: 3, second: both[second]})
    given = {"name": "n", "train": {"epochs": 3, "seed": 2}, "spark": {"master": "none"}, "evaluate": {"metric": "loss"}}
    parameters = as_parameters("retrain", given)
    assert parameters == {**given, "train": {"epochs": 3}, "more_train": {"seed": 2}}
    again = settings_of("retrain", {name: values for name, values in parameters.items() if name != "name"}, name="n")
    assert (again.train.model_fields_set, again.spark.master, again.evaluate.metric) == ({"epochs", "seed"}, "none", "loss")


def test_a_task_of_another_flow_is_refused_with_the_flow_that_trains_it() -> None:
    with pytest.raises(
        SettingsError, match="language-model does not go with ts4s retrain: leave it out, or use ts4s language-model"
    ):
        settings_of("retrain", {"model": {"task": "language-model"}})
