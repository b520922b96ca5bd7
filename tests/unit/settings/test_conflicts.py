from __future__ import annotations

import os
from typing import Any

import pytest

from ts4s_core.errors import SettingsError
from ts4s_core.settings import load_settings, local_slots

LOCAL_8 = {"master": "local[8]"}
SECRETS = {"TS4S_STORAGE__KEY": "K", "TS4S_STORAGE__SECRET": "S"}

CONFLICTS: list[tuple[dict[str, Any], dict[str, str], tuple[str, ...]]] = [
    ({"train": {"logical_shards": 6}}, {}, ("train.logical_shards", "6", "power of two")),
    ({"train": {"workers": 3}, "spark": LOCAL_8}, {}, ("train.workers 3", "train.logical_shards 4")),
    ({"train": {"workers": 8}, "spark": LOCAL_8}, {}, ("train.workers 8", "train.logical_shards 4")),
    ({"train": {"workers": 4}, "spark": {"master": "local[2]"}}, {}, ("train.workers 4", "4 slots", "local[2] has 2")),
    (
        {"train": {"workers": 2, "threads_per_worker": 2}, "spark": {"master": "local[2]"}},
        {},
        ("threads_per_worker 2", "local[4]"),
    ),
    ({"train": {"threads_per_worker": 2}, "spark": {"master": "local"}}, {}, ("threads_per_worker 2", "local has 1")),
    (
        {"data": {"validation_fraction": 0.5, "test_fraction": 0.5}},
        {},
        ("data.validation_fraction 0.5", "data.test_fraction 0.5"),
    ),
    ({"data": {"window": 64, "stride": 65}}, {}, ("data.stride 65", "data.window 64")),
    (
        {"data": {"format": "table", "source": "db.t"}, "spark": {"master": "none"}},
        {},
        ("data.format table", "spark.master is none"),
    ),
    ({"data": {"format": "tsv"}}, {}, ("data.format tsv", "data.source")),
    ({"train": {"averaging_frequency": 5}}, {}, ("train.averaging_frequency 5", "train.strategy synchronous")),
    ({"storage": {"endpoint_url": "http://h:9"}}, {}, ("storage.endpoint_url http://h:9", "storage.uri artifacts")),
    ({}, {"TS4S_STORAGE__KEY": "K"}, ("storage.key", "storage.secret")),
    ({}, {"TS4S_STORAGE__SECRET": "S"}, ("storage.secret", "storage.key")),
    ({"storage": {"uri": "s3:///"}}, {}, ("storage.uri s3:///", "bucket")),
    ({"model": {"task": "language-model", "classes": 3}}, {}, ("model.classes 3", "language-model")),
    ({"model": {"classes": 1}}, {}, ("model.classes 1", "classification")),
    ({"model": {"freeze_encoder": True, "lora_rank": 4}}, {}, ("model.freeze_encoder true", "model.lora_rank 4")),
    ({"generate": {"prompt": "one", "prompt_file": "two.txt"}}, {}, ("generate.prompt 'one'", "two.txt")),
    ({"spark": {"conf": ["novalue"]}}, {}, ("spark.conf 'novalue'", "KEY=VALUE")),
    ({"spark": {"conf": ["spark.master=yarn"], **LOCAL_8}}, {}, ("spark.conf spark.master=yarn", "spark.master local[8]")),
    (
        {"spark": {"conf": ["spark.task.cpus=4"], **LOCAL_8}, "train": {"threads_per_worker": 2}},
        {},
        ("spark.task.cpus=4", "train.threads_per_worker 2"),
    ),
    ({"data": {"format": "sql", "source": "SELECT 1"}, "spark": {"master": "none"}}, {}, ("data.format sql", "needs Spark")),
    ({"data": {"format": "jdbc", "source": "jdbc:derby:x"}}, {}, ("data.format jdbc", "data.query")),
    ({"data": {"format": "table", "source": "x", "query": "SELECT 1"}}, {}, ("data.query", "data.format table", "jdbc")),
    ({"data": {"source": "x.tsv", "options": ["versionAsOf=3"]}}, {}, ("data.options", "jdbc, delta, iceberg")),
    (
        {"data": {"format": "jdbc", "source": "jdbc:derby:x", "query": "t", "options": ["password=hush"]}},
        {},
        ("data.options password", "JDBC_USER and JDBC_PASSWORD"),
    ),
    (
        {"data": {"format": "jdbc", "source": "jdbc:derby:/db;user=me;password=hush", "query": "t"}},
        {},
        ("data.source holds a signature or a key",),
    ),
    (
        {"data": {"format": "jdbc", "source": "jdbc:postgresql://me:hush@host/db", "query": "t"}},
        {},
        ("data.source holds a user name or keys",),
    ),
    (
        {"data": {"format": "jdbc", "source": "jdbc:oracle:thin:me/hush@//host:1521/db", "query": "t"}},
        {},
        ("data.source holds a user name or keys",),
    ),
    ({"storage": {"options": ["project=p"]}}, {}, ("storage.options", "gs:// or abfs://")),
    ({"storage": {"uri": "gs://b/x", "options": ["project"]}}, {}, ("storage.options 'project'", "KEY=VALUE")),
    ({"storage": {"uri": "abfs://c/x", "options": ["account_key=hush"]}}, {}, ("storage.options account_key", "AZURE_STORAGE")),
    ({"spark": {"conf": ["spark.hadoop.fs.s3a.secret.key=hush"]}}, {}, ("fs.s3a.secret.key", "secret")),
]


@pytest.mark.parametrize(("flags", "environ", "words"), CONFLICTS, ids=lambda value: str(value)[:60])
def test_settings_that_contradict_each_other_are_refused_with_both_values(
    flags: dict[str, Any], environ: dict[str, str], words: tuple[str, ...]
) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(flags, environ=environ)
    message = str(refused.value)
    for word in words:
        assert word in message
    assert "hush" not in message


def test_several_contradictions_are_told_together() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({"data": {"window": 64, "stride": 65}, "model": {"classes": 1}}, environ={})
    assert "data.stride" in str(refused.value)
    assert "model.classes" in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "environ"),
    [
        ({"train": {"workers": 4}, "spark": {"master": "local[4]"}}, {}),
        # Plain processes may share cores.
        ({"train": {"workers": 4}, "spark": {"master": "none"}}, {}),
        # Only the cluster knows its slots.
        ({"train": {"workers": 4}, "spark": {"master": "spark://host:7077"}}, {}),
        ({"train": {"strategy": "averaging", "averaging_frequency": 5}}, {}),
        ({"storage": {"uri": "s3://bucket/p", "endpoint_url": "http://127.0.0.1:9000"}}, SECRETS),
        ({"storage": {"endpoint_url": "http://127.0.0.1:9000"}, "data": {"source": "s3://bucket/texts"}}, SECRETS),
        ({"model": {"classes": 1, "task": "multi-label"}}, {}),
        ({"model": {"freeze_encoder": True}}, {}),
        ({"spark": {"conf": ["spark.dynamicAllocation.enabled=true", "spark.app.name=a=b"]}}, {}),
        ({"data": {"format": "docstrings"}}, {}),
        ({"data": {"format": "sql", "source": "SELECT label, text FROM news"}}, {}),
        (
            {"data": {"format": "jdbc", "source": "jdbc:oracle:thin:@//host:1521/db", "query": "t", "options": ["fetchsize=9"]}},
            {},
        ),
        ({"data": {"source": "gs://b/rows.tsv"}, "storage": {"options": ["project=p", "timeout=5"]}}, {}),
        ({"data": {"window": 64, "stride": 64}}, {}),
    ],
)
def test_settings_that_fit_are_taken(flags: dict[str, Any], environ: dict[str, str]) -> None:
    settings = load_settings(flags, environ=environ)
    for group, given in flags.items():
        taken = getattr(settings, group).model_dump()
        assert {name: taken[name] for name in given} == {name: _as_kept(value) for name, value in given.items()}


def _as_kept(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("master", ["local[0]", "local[x]", "mesos://h", "", "spark://", "none "])
def test_masters_that_are_none(master: str) -> None:
    with pytest.raises(SettingsError, match=r"spark\.master"):
        load_settings({"spark": {"master": master}}, environ={})


@pytest.mark.parametrize("name", ["", "..", "a/b", "a..b", "-a", "a" * 65, "a b", "a\n", "é"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(SettingsError, match="name"):
        load_settings({"name": name}, environ={})


@pytest.mark.parametrize(
    ("master", "slots"),
    [
        ("local", 1),
        ("local[3]", 3),
        ("local[3,2]", 3),
        ("local[*]", os.cpu_count()),
        ("none", os.cpu_count()),
        ("spark://h:1", None),
        ("yarn", None),
    ],
)
def test_slots_of_a_master(master: str, slots: int | None) -> None:
    assert local_slots(master) == slots


@pytest.mark.parametrize("name", ["uri", "endpoint_url"])
def test_keys_in_an_address_are_refused_without_being_shown(name: str) -> None:
    storage = {"uri": "s3://bucket/p", "endpoint_url": "http://127.0.0.1:9000"}
    storage[name] = storage[name].replace("://", "://PLANTEDKEY:planted-secret@")
    with pytest.raises(SettingsError) as refused:
        load_settings({"storage": storage})
    assert f"storage.{name} holds a user name or keys before an @" in str(refused.value)
    assert "PLANTED" not in str(refused.value).upper()
