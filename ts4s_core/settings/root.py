"""The whole of the settings, and every check that needs two of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ts4s_core.addresses import problem_of
from ts4s_core.settings.groups import (
    MAX_NAME_CHARS,
    NAME_PATTERN,
    SPARK_FORMATS,
    DataSettings,
    EvaluateSettings,
    GenerateSettings,
    ModelSettings,
    SparkSettings,
    StorageSettings,
    TrainSettings,
)
from ts4s_core.settings.network_sizes import NETWORK_SIZES
from ts4s_core.settings.spark_conf import split_pairs
from ts4s_core.task_kinds.registry import kind_of

ENV_PREFIX = "TS4S_"
#: Refused as flags and as flow parameters, and in nothing that is shown or kept.
SECRET_FIELDS = frozenset({("storage", "key"), ("storage", "secret"), ("spark", "secret")})
#: Settings that may hold an address.
ADDRESSES = (
    ("model", "source"),
    ("model", "tokenizer"),
    ("model", "word_vectors"),
    ("data", "source"),
    ("train", "ledger"),
    ("spark", "master"),
    ("storage", "uri"),
    ("storage", "endpoint_url"),
    ("storage", "cache_dir"),
    ("generate", "prompt_file"),
)
#: Which architectures a setting of the network is for.
_NETWORK_SETTINGS = {
    "hidden_size": ("transformer", "window", "recurrent"),
    "layers": ("transformer", "recurrent"),
    "attention_heads": ("transformer", "window"),
    "embedding_size": ("window", "recurrent"),
    "context": ("window",),
    "cell": ("recurrent",),
    "tie_word_embeddings": ("recurrent",),
    "word_vectors": ("window", "recurrent"),
}


_SECRET_OPTION = re.compile(r"(?i)secret|passw|access[._]?key|account[._]?key|sas[._]|token|credential|connection_?string")
_SECRETS_OF = {
    "data.options": "set JDBC_USER and JDBC_PASSWORD in the environment",
    "storage.options": "use the environment that its library reads (AZURE_STORAGE_ACCOUNT_KEY, GOOGLE_APPLICATION_CREDENTIALS)",
}
#: Formats that Spark's reader takes options for.
READER_FORMATS = ("jdbc", "delta", "iceberg")
#: Addresses that have settings of their own, or need none.
_KNOWN_STORES = ("s3://", "file://", "http://", "https://")


class Settings(BaseSettings):
    """All settings of a run. Built by :func:`ts4s_core.settings.load.load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid", protected_namespaces=()
    )

    name: str = Field("default", pattern=NAME_PATTERN, max_length=MAX_NAME_CHARS, description="the model's name in the registry")
    reuse: bool = Field(True, description="skip steps that were already done with the same inputs and settings")
    model: ModelSettings = Field(default_factory=ModelSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    spark: SparkSettings = Field(default_factory=SparkSettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    generate: GenerateSettings = Field(default_factory=GenerateSettings)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_others: Any, **_named: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """``Settings(...)`` takes what it is given; only ``load_settings`` looks at the environment."""
        return (init_settings,)

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Settings:
        problems = self.conflicts()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def conflicts(self) -> list[str]:
        """What is wrong between two settings, one clause each."""
        return list(_conflicts(self))

    def plain(self) -> dict[str, Any]:
        """The settings as JSON values, without secrets: fit for a manifest, a log or a Prefect parameter."""
        values: dict[str, Any] = self.model_dump(mode="json")
        for group, name in SECRET_FIELDS:
            values[group].pop(name)
        return values


def local_slots(master: str) -> int | None:
    """Task slots of a master on this host, or None where only the cluster knows."""
    if master == "none" or master.startswith("local[*"):
        return os.cpu_count() or 1
    if master == "local":
        return 1
    found = re.match(r"^local\[(\d+)", master)
    return int(found.group(1)) if found else None


def _conflicts(settings: Settings) -> Iterator[str]:
    train, data, spark = settings.train, settings.data, settings.spark
    shards, workers = train.logical_shards, train.workers
    if shards & (shards - 1):
        yield f"train.logical_shards is {shards}, which is not a power of two: use 1, 2, 4, 8, ..."
    elif workers and shards % workers:
        yield (
            f"train.workers {workers} does not divide train.logical_shards {shards}: "
            "use a power of two that is not larger, or 0 for the largest that fits"
        )
    slots = local_slots(spark.master)
    wanted = max(workers, 1) * train.threads_per_worker
    # Plain processes may share cores; Spark would wait for slots that never come.
    if slots is not None and spark.master != "none" and wanted > slots:
        yield (
            f"train.workers {workers} x train.threads_per_worker {train.threads_per_worker} needs {wanted} slots, "
            f"spark.master {spark.master} has {slots}: lower one of them or use local[{wanted}]"
        )
    held_out = data.validation_fraction + data.test_fraction
    if held_out >= 1:
        yield (
            f"data.validation_fraction {data.validation_fraction} and data.test_fraction {data.test_fraction} "
            f"leave no training rows: their sum must be below 1, got {held_out:g}"
        )
    if data.stride > data.window:
        yield f"data.stride {data.stride} is larger than data.window {data.window}: tokens between windows would be lost"
    if data.block_bytes and data.block_bytes < data.window:
        yield (
            f"data.block_bytes {data.block_bytes} is smaller than data.window {data.window}: a block would hold no window. "
            "Raise data.block_bytes, or leave it at 0"
        )
    yield from _source_conflicts(settings)
    if train.averaging_frequency and train.strategy != "averaging":
        yield (
            f"train.averaging_frequency {train.averaging_frequency} has no meaning with train.strategy {train.strategy}: "
            "use strategy averaging, or leave it at 0"
        )
    yield from _secrets_in_addresses(settings)
    yield from _storage_conflicts(settings)
    yield from _model_conflicts(settings)
    yield from _spark_conflicts(settings)


def _source_conflicts(settings: Settings) -> Iterator[str]:
    data, storage = settings.data, settings.storage
    if data.format in SPARK_FORMATS and settings.spark.master == "none":
        yield (
            f"data.format {data.format} needs Spark, spark.master is none: give a master, or read the table's files as parquet"
        )
    if data.format not in (None, "docstrings") and not data.source:
        yield f"data.format {data.format} needs data.source, which is empty: name a file, a folder or a table"
    if data.format == "jdbc" and not data.query:
        yield "data.format jdbc needs data.query, which is empty: give a query, or the name of a table"
    if data.query and data.format != "jdbc":
        yield (
            f"data.query has no meaning with data.format {data.format or 'left out'}: it is for a database (jdbc). With sql, "
            "data.source is the query"
        )
    if data.options and data.format not in READER_FORMATS:
        yield (
            f"data.options has no meaning with data.format {data.format or 'left out'}: it is for "
            f"{', '.join(READER_FORMATS)}. Leave it out"
        )
    elsewhere = [address for address in (storage.uri, data.source) if "://" in address and not address.startswith(_KNOWN_STORES)]
    if storage.options and not elsewhere:
        yield (
            f"storage.options has no meaning with storage.uri {storage.uri} and data.source {data.source or 'empty'}: it is for "
            "other addresses, such as gs:// or abfs://. Leave it out"
        )
    for name, pairs in (("data.options", data.options), ("storage.options", storage.options)):
        yield from _not_pairs(name, pairs)
        for key, _ in split_pairs(pairs):
            if _SECRET_OPTION.search(key):
                yield f"{name} {key} would put a secret into what is recorded: {_SECRETS_OF[name]}"


def _not_pairs(setting: str, pairs: Iterable[str]) -> Iterator[str]:
    for pair in pairs:
        key, equals, _ = pair.partition("=")
        if not equals or not key.strip():
            yield f"{setting} {pair!r} is not KEY=VALUE"


def _spark_conflicts(settings: Settings) -> Iterator[str]:
    fixed = {
        "spark.master": (settings.spark.master, "spark.master"),
        "spark.task.cpus": (str(settings.train.threads_per_worker), "train.threads_per_worker"),
    }
    yield from _not_pairs("spark.conf", settings.spark.conf)
    for name, value in split_pairs(settings.spark.conf):
        wanted, setting = fixed.get(name, (value, ""))
        if value != wanted:
            yield f"spark.conf {name}={value} contradicts {setting} {wanted}: leave it out, and set {setting}"
        elif re.search(r"(?i)secret|password|access\.?key|session\.?token", name):
            yield f"spark.conf {name} would put a secret into Spark's configuration: use the environment or the AWS chain"


def _secrets_in_addresses(settings: Settings) -> Iterator[str]:
    for group, name in ADDRESSES:
        problem = problem_of(f"{group}.{name}", getattr(getattr(settings, group), name) or "")
        if problem is not None:
            yield problem
    for name, value in split_pairs(settings.spark.conf):
        problem = problem_of(f"spark.conf {name}", value)
        if problem is not None:
            yield problem


def _storage_conflicts(settings: Settings) -> Iterator[str]:
    storage = settings.storage
    scheme = storage.uri.split("://", 1)[0] if "://" in storage.uri else "file"
    if storage.endpoint_url and scheme != "s3" and not settings.data.source.startswith("s3://"):
        yield (
            f"storage.endpoint_url {storage.endpoint_url} has no meaning with storage.uri {storage.uri} and data.source "
            f"{settings.data.source or 'empty'}: use an s3:// address for one of them, or leave it out"
        )
    if (storage.key is None) != (storage.secret is None):
        given, missing = ("key", "secret") if storage.key is not None else ("secret", "key")
        yield f"storage.{given} is given without storage.{missing}: give both, or neither for the usual AWS chain"
    if scheme == "s3" and not storage.uri.removeprefix("s3://").strip("/"):
        yield f"storage.uri {storage.uri} names no bucket: use s3://bucket/prefix"


def _model_conflicts(settings: Settings) -> Iterator[str]:
    model, generate = settings.model, settings.generate
    least = kind_of(model.task).least_classes
    if model.classes and not least:
        yield f"model.classes {model.classes} has no meaning with model.task {model.task}: leave it at 0"
    elif 0 < model.classes < least:
        yield (
            f"model.classes {model.classes} leaves nothing to distinguish with model.task {model.task}: use {least} or more, or 0"
        )
    if model.freeze_encoder and model.lora_rank:
        yield (
            f"model.freeze_encoder true and model.lora_rank {model.lora_rank} contradict each other: "
            "LoRA trains adapters inside the encoder and keeps its weights frozen anyway"
        )
    yield from _network_conflicts(model)
    if generate.prompt and generate.prompt_file:
        yield f"generate.prompt {generate.prompt[:40]!r} and generate.prompt_file {generate.prompt_file} are both given: use one"


def _network_conflicts(model: ModelSettings) -> Iterator[str]:
    """Settings of one kind of network that are given to another."""
    kind = model.architecture
    given = {name for name in _NETWORK_SETTINGS if getattr(model, name) != ModelSettings.model_fields[name].default}
    for name in sorted(given):
        if kind not in _NETWORK_SETTINGS[name]:
            yield (
                f"model.{name} {getattr(model, name)} has no meaning with model.architecture {kind}: "
                f"use architecture {' or '.join(_NETWORK_SETTINGS[name])}, or leave it out"
            )
    # A flow sets the task itself, later, where it is not given.
    if kind != "transformer" and "task" in model.model_fields_set and "model.architecture" not in kind_of(model.task).settings:
        yield f"model.architecture {kind} does not go with model.task {model.task}: it is a language model's"
    if kind != "transformer" and (model.lora_rank or model.freeze_encoder):
        yield f"model.lora_rank and model.freeze_encoder have no meaning with model.architecture {kind}: leave them out"
    if model.freeze_word_vectors and model.word_vectors is None:
        yield "model.freeze_word_vectors true needs model.word_vectors, which is not given: name a file, or leave it off"
    if model.freeze_word_vectors and model.tie_word_embeddings:
        yield "model.freeze_word_vectors true and model.tie_word_embeddings true would freeze the output too: use one of them"
    if model.tie_word_embeddings and model.layers <= 1 and model.hidden_size:
        yield (
            f"model.hidden_size {model.hidden_size} has no meaning with model.tie_word_embeddings true and one layer, which is "
            "as wide as model.embedding_size: leave it out, or use model.layers 2 or more"
        )
    size = model.embedding_size or NETWORK_SIZES["embedding_size"]
    if kind == "window" and model.attention_heads and model.word_vectors is None and size % model.attention_heads:
        yield f"model.attention_heads {model.attention_heads} does not divide model.embedding_size {size}: use a divisor"
