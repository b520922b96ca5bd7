"""Which settings bear on which flow: one definition, read by help, forms, table and report."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli.options import setting_flags
from ts4s_core.errors import SettingsError
from ts4s_core.settings import Settings, load_settings
from ts4s_core.settings.flows import (
    FLOWS,
    STEPS,
    completed,
    defaults_of,
    flow_settings,
    restricted_to,
    settings_of_kind,
    settings_that_apply,
    shown_settings,
)
from ts4s_core.settings.root import SECRET_FIELDS
from ts4s_core.task_kinds.classification import CLASSIFICATION
from ts4s_core.task_kinds.language_model import LANGUAGE_MODEL
from ts4s_core.task_kinds.multi_label import MULTI_LABEL

OF_LANGUAGE_MODELS = {
    *(
        f"model.{name}"
        for name in ("tokenizer_kind", "vocabulary_size", "architecture", "hidden_size", "layers", "cell", "context")
    ),
    *(f"model.{name}" for name in ("hidden_size", "attention_heads", "embedding_size", "tie_word_embeddings", "word_vectors")),
    *(f"data.{name}" for name in ("window", "stride", "split_by", "block_bytes")),
    *("model.freeze_word_vectors", "evaluate.top_k", "evaluate.words", "generate.prompt"),
}


def test_what_people_change_first_comes_first() -> None:
    assert flow_settings("retrain").first == (
        "data.source",
        "data.format",
        "data.text_column",
        "data.label_column",
        "model.source",
        "train.epochs",
        "train.learning_rate",
        "train.batch_size",
        "model.max_length",
        "train.workers",
    )
    assert flow_settings("language-model").first == (
        "data.source",
        "data.format",
        "model.source",
        "train.epochs",
        "train.learning_rate",
        "train.batch_size",
        "data.window",
        "train.workers",
    )


def test_each_setting_bears_on_something_and_is_named_once() -> None:
    known = {flag.flag[2:] for flag in setting_flags()} | {".".join(place) for place in SECRET_FIELDS}
    for flow in FLOWS:
        names = flow_settings(flow).names
        assert len(set(names)) == len(names)
        assert set(names) <= known
    every = {name for flow in FLOWS for name in flow_settings(flow).names}
    assert known - every == {"storage.keep_last", "storage.grace_hours"}


def test_what_a_flow_does_not_use_is_not_among_its_settings() -> None:
    retrain, language = (set(flow_settings(flow).names) for flow in ("retrain", "language-model"))
    assert not OF_LANGUAGE_MODELS & retrain
    assert language >= OF_LANGUAGE_MODELS
    assert retrain - language == {
        *("data.text_column", "data.label_column", "data.csv_escape", "data.csv_escape_unquoted", "data.max_rows"),
        *("model.task", "model.classes", "model.max_length"),
        *("model.freeze_encoder", "model.class_weights", "evaluate.metric", "evaluate.max_drift"),
        *("data.query", "data.options"),
    }
    assert set(settings_of_kind(CLASSIFICATION)) - set(settings_of_kind(MULTI_LABEL)) == {"model.class_weights"}
    assert "data.id_column" in flow_settings("predict").names
    assert "train.epochs" not in flow_settings("predict").names


def test_what_does_not_bear_is_as_if_it_had_not_been_given(tmp_path: Path) -> None:
    (tmp_path / "all.toml").write_text(
        '[model]\ncell = "lstm"\nmax_length = 64\n[data]\nwindow = 32\n[train]\nepochs = 3\n'
        '[storage]\nkey = "AK"\nsecret = "no"\n'
    )
    environ = {"TS4S_MODEL__CONTEXT": "4", "TS4S_GENERATE__PROMPT": "x", "TS4S_EVALUATE__MAX_DRIFT": "0.5"}
    retrain = load_settings(config=tmp_path / "all.toml", environ=environ, flow="retrain")
    assert (retrain.model, retrain.data) == (Settings(model={"max_length": 64}).model, Settings().data)
    assert retrain.model.model_fields_set == {"max_length"}
    assert (retrain.train.epochs, retrain.generate, retrain.evaluate.max_drift) == (3, Settings().generate, 0.5)
    assert retrain.storage.secret is not None
    with pytest.raises(SettingsError, match=r"model\.cell lstm has no meaning with model\.architecture transformer"):
        load_settings(config=tmp_path / "all.toml", environ=environ)
    with pytest.raises(SettingsError, match=r"model\.context 4 has no meaning with model\.architecture transformer"):
        load_settings(config=tmp_path / "all.toml", environ=environ, flow="language-model")
    language = completed(
        load_settings(
            {"data": {"window": 32}, "model": {"max_length": 64, "task": "language-model"}}, environ={}, flow="language-model"
        )
    )
    assert (language.model.max_length, language.data.window) == (32, 32)


def test_a_single_step_has_the_settings_of_its_kind_that_it_uses(tmp_path: Path) -> None:
    (tmp_path / "all.toml").write_text(
        'name = "n"\n[model]\ntask = "language-model"\nlayers = 2\nmax_length = 64\n[data]\nwindow = 32\nformat = "table"\n'
        '[train]\nepochs = 3\nseed = 5\n[spark]\nmaster = "none"\n'
    )
    export = load_settings(config=tmp_path / "all.toml", environ={}, flow="export")
    assert export == Settings(name="n", model={"task": "language-model", "layers": 2}, data={"window": 32}, train={"seed": 5})
    train = load_settings(config=tmp_path / "all.toml", environ={}, flow="train")
    assert (train.train.epochs, train.data, train.model.layers, train.spark.master) == (3, Settings().data, 0, "none")
    with pytest.raises(SettingsError, match=r"data\.format table needs Spark"):
        load_settings(config=tmp_path / "all.toml", environ={}, flow="prepare")
    only = load_settings(config=tmp_path / "all.toml", environ={}, flow="", groups=("storage",))
    assert only == Settings(name="n")


def test_every_step_has_what_its_kinds_have_and_no_more() -> None:
    for step in STEPS:
        every = {name for kind in (CLASSIFICATION, MULTI_LABEL, LANGUAGE_MODEL) for name in settings_of_kind(kind)}
        names = flow_settings(step).names
        assert len(set(names)) == len(names)
        assert {"name", "reuse", "storage.uri", "model.task"} <= set(names) <= {"model.task", *every}
    assert set(settings_of_kind(CLASSIFICATION, step="export")) & OF_LANGUAGE_MODELS == set()


def test_what_bears_is_still_refused_where_it_is_wrong() -> None:
    with pytest.raises(SettingsError, match=r"model\.classes 1 leaves nothing to distinguish"):
        load_settings({"model": {"classes": 1}}, environ={}, flow="retrain")
    with pytest.raises(SettingsError, match=r"model\.cell: input should be 'gru' or 'lstm'"):
        load_settings({"model": {"cell": "rnn"}}, environ={}, flow="retrain")
    with pytest.raises(SettingsError, match="language-model does not go with ts4s retrain"):
        load_settings({"model": {"task": "language-model"}}, environ={}, flow="retrain")
    assert load_settings({"model": {"class_weights": "balanced"}}, environ={}, flow="retrain").model.class_weights == "balanced"
    other = load_settings({"model": {"class_weights": "balanced", "task": "multi-label"}}, environ={}, flow="retrain")
    assert (other.model.class_weights, other.model.task) == ("none", "multi-label")


def test_only_keeps_values_and_what_was_given() -> None:
    settings = Settings(name="n", reuse=False, train={"epochs": 3, "seed": 1})
    kept = restricted_to(settings, {"name", "train.seed"})
    assert (kept.name, kept.reuse, kept.train.epochs, kept.train.seed) == ("n", True, 2, 1)
    assert kept.train.model_fields_set == {"seed"}
    assert restricted_to(settings, settings_that_apply("retrain", None)) == settings


def test_a_flow_has_its_own_defaults() -> None:
    assert defaults_of("retrain") == Settings()
    language = defaults_of("language-model")
    assert (language.train.epochs, language.data.stride, language.generate.max_new_tokens) == (8, 32, 400)
    assert language.model.source == "config:decoder"


def test_a_report_shows_what_bears_in_that_order() -> None:
    settings = Settings(storage={"key": "AK", "secret": "hush"}, spark={"conf": ["a=b"]})
    shown = shown_settings(settings, CLASSIFICATION)
    assert tuple(shown)[:10] == flow_settings("retrain").first
    assert (shown["train.epochs"], shown["spark.conf"], shown["data.format"]) == (2, ["a=b"], None)
    assert not OF_LANGUAGE_MODELS & set(shown)
    assert "hush" not in str(shown)
    assert not {"storage.key", "storage.secret"} & set(shown)
    assert set(shown_settings(settings, LANGUAGE_MODEL)) >= OF_LANGUAGE_MODELS
