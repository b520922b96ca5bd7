from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from ts4s_core.errors import SettingsError
from ts4s_core.settings import Settings, StorageAddress, load_settings
from ts4s_core.settings.load import unknown_variables
from ts4s_core.settings.root import SECRET_FIELDS

FILE = """
name = "from-file"
[train]
workers = 2
batch_size = 8
[profile.test]
name = "from-profile"
[profile.test.train]
batch_size = 16
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "ts4s.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def load(flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None, **files: Any) -> Settings:
    return load_settings(flags, environ=environ or {}, **files)


def test_defaults_alone() -> None:
    settings = load()
    assert (settings.name, settings.reuse, settings.train.logical_shards, settings.storage.uri) == (
        "default",
        True,
        4,
        "artifacts",
    )


def test_a_flag_is_stronger_than_the_environment() -> None:
    settings = load({"train": {"batch_size": "4"}}, {"TS4S_TRAIN__BATCH_SIZE": "64", "TS4S_TRAIN__EPOCHS": "7"})
    assert (settings.train.batch_size, settings.train.epochs) == (4, 7)


def test_the_environment_is_stronger_than_the_file(config: Path) -> None:
    settings = load(environ={"TS4S_TRAIN__BATCH_SIZE": "64", "TS4S_NAME": "from-environment"}, config=config)
    assert (settings.train.batch_size, settings.train.workers, settings.name) == (64, 2, "from-environment")


def test_the_file_is_stronger_than_the_defaults(config: Path) -> None:
    settings = load(config=config)
    assert (settings.train.batch_size, settings.name, settings.train.epochs) == (8, "from-file", 2)


def test_a_flag_is_stronger_than_the_file(config: Path) -> None:
    assert load({"train": {"batch_size": "4"}}, config=config).train.batch_size == 4


def test_a_profile_lies_over_its_file_and_below_the_environment(config: Path) -> None:
    settings = load(config=config, profile="test")
    assert (settings.name, settings.train.batch_size, settings.train.workers) == ("from-profile", 16, 2)
    assert load(environ={"TS4S_TRAIN__BATCH_SIZE": "64"}, config=config, profile="test").train.batch_size == 64


def test_an_empty_variable_is_not_given() -> None:
    assert load(environ={"TS4S_TRAIN__WORKERS": "", "TS4S_STORAGE__REGION": ""}).train.workers == 0


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("1", True), ("no", False)])
def test_booleans_are_words(text: str, value: bool) -> None:
    assert load({"reuse": text}).reuse is value
    assert load(environ={"TS4S_MODEL__FREEZE_ENCODER": text}).model.freeze_encoder is value


def test_spark_conf_from_every_source(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[spark]\nconf = ["a=1", "b=2"]\n', encoding="utf-8")
    assert load(config=path).spark.conf == ("a=1", "b=2")
    assert load(environ={"TS4S_SPARK__CONF": "c=3,d=4"}).spark.conf == ("c=3", "d=4")
    assert load({"spark": {"conf": ["e=5"]}}).spark.conf == ("e=5",)


@pytest.mark.parametrize(
    ("flags", "environ", "file", "names"),
    [
        ({"train": {"wrokers": "2"}}, {}, "", "train.wrokers"),
        ({}, {"TS4S_TRAIN__WROKERS": "2"}, "", "TS4S_TRAIN__WROKERS"),
        ({}, {"TS4S_TRIAN__WORKERS": "2"}, "", "TS4S_TRIAN__WORKERS"),
        ({}, {"TS4S_WORKERS": "2"}, "", "TS4S_WORKERS"),
        ({}, {}, "[train]\nwrokers = 2", "train.wrokers"),
        ({}, {}, "[trian]\nworkers = 2", "trian"),
        ({}, {}, "workers = 2", "workers"),
    ],
)
def test_unknown_names_are_refused_everywhere(
    tmp_path: Path, flags: dict[str, Any], environ: dict[str, str], file: str, names: str
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(file, encoding="utf-8")
    with pytest.raises(SettingsError, match=names):
        load(flags, environ, config=path)


def test_other_programs_variables_are_none_of_our_business() -> None:
    assert unknown_variables({"TS4SX": "1", "PREFECT_API_URL": "x", "PATH": "/bin"}) == []


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as refused:
        load({"train": {"workers": "-1", "epochs": "many"}, "model": {"task": "poetry"}})
    message = str(refused.value)
    assert message.count("; ") == 2
    for part in ("train.workers", "'-1'", "train.epochs", "'many'", "model.task", "'poetry'", "multi-label"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("name = ", "not valid TOML"),
        ("profile = 3", "profiles are tables"),
        ("[profile.a]\n", "has a"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, file: str, message: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(file, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        load(config=path, profile="test")


def test_a_missing_file_and_a_profile_without_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml cannot be read"):
        load(config=tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="--profile test needs --config"):
        load(profile="test")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="cannot be read"):
        load(config=path)


def test_secrets_come_from_environment_or_file_and_are_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[storage]\nkey = "AKFILE"\nsecret = "file-secret"\n', encoding="utf-8")
    settings = load(environ={"TS4S_STORAGE__SECRET": "hush-hush"}, config=path)
    assert isinstance(settings.storage.secret, SecretStr)
    assert settings.storage.secret.get_secret_value() == "hush-hush"
    assert settings.storage.key is not None
    assert settings.storage.key.get_secret_value() == "AKFILE"
    for shown in (repr(settings), str(settings), str(settings.plain()), settings.model_dump_json()):
        assert "hush-hush" not in shown
        assert "AKFILE" not in shown
    assert set(settings.plain()["storage"]) == set(StorageAddress.model_fields)


def test_a_refused_secret_is_not_quoted() -> None:
    with pytest.raises(SettingsError) as refused:
        load({"storage": {"secret": ["hush-hush"]}})
    assert "hush-hush" not in str(refused.value)
    assert "storage.secret" in str(refused.value)


def test_every_secret_field_is_marked() -> None:
    found = {
        (group, name)
        for group, field in Settings.model_fields.items()
        for name, member in getattr(field.annotation, "model_fields", {}).items()
        if "SecretStr" in str(member.annotation)
    }
    assert found == SECRET_FIELDS


def test_every_setting_has_a_sentence_and_every_number_a_bound() -> None:
    for group, field in Settings.model_fields.items():
        members = getattr(field.annotation, "model_fields", {group: field})
        for name, member in members.items():
            assert member.description, (group, name)
            if member.annotation in (int, float, int | None, float | None):
                assert member.metadata, (group, name)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("name", ["learning_rate", "max_grad_norm", "timeout_s", "weight_decay"])
def test_numbers_are_finite(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"train.{name}"):
        load({"train": {name: value}})


def test_the_environment_is_read_only_by_load_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS4S_NAME", "elsewhere")
    assert Settings().name == "default"
    assert load_settings().name == "elsewhere"


TABLE = """
[spark.conf]
spark.ui.enabled = true
"spark.executor.extraJavaOptions" = "-Da=1,-Db=2"
spark.jars.packages = ["g:a:1", "g:b:2"]
spark.executor.cores = 3
[profile.small.spark.conf]
spark.executor.cores = 1
"""
PAIRS = ("spark.executor.extraJavaOptions=-Da=1,-Db=2", "spark.jars.packages=g:a:1,g:b:2")


def test_sparks_configuration_is_a_table_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ts4s.toml"
    path.write_text(TABLE, encoding="utf-8")
    pairs = load(config=path).spark.conf
    assert set(pairs) == {*PAIRS, "spark.ui.enabled=true", "spark.executor.cores=3"}
    assert "spark.executor.cores=1" in load(config=path, profile="small").spark.conf
    assert load({"spark": {"conf": ["spark.a=1"]}}, config=path).spark.conf == ("spark.a=1",)


@pytest.mark.parametrize(
    "given",
    [
        ",".join(PAIRS),
        ", ".join(PAIRS) + ",",
        '{"spark.executor.extraJavaOptions": "-Da=1,-Db=2", "spark.jars": {"packages": ["g:a:1", "g:b:2"]}}',
    ],
)
def test_a_variable_holds_pairs_whose_values_have_commas(given: str) -> None:
    assert load(environ={"TS4S_SPARK__CONF": given}).spark.conf == PAIRS


def test_a_variable_that_is_no_json_says_so() -> None:
    with pytest.raises(SettingsError, match=r"begin with \{ are not a JSON object: .* Give KEY=VALUE,KEY=VALUE"):
        load(environ={"TS4S_SPARK__CONF": '{"spark.ui.enabled": tru}'})


@pytest.mark.parametrize("scheme", ["s3", "s3a", "S3A", "s3n"])
def test_an_address_of_s3_is_one_whatever_its_scheme(scheme: str) -> None:
    given = {"uri": f"{scheme}://bucket/prefix", "endpoint_url": "http://127.0.0.1:9"}
    settings = load({"storage": given, "data": {"source": f"{scheme}://bucket/rows.tsv"}})
    assert (settings.storage.uri, settings.data.source) == ("s3://bucket/prefix", "s3://bucket/rows.tsv")
