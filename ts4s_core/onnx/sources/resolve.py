"""Where a base model comes from: every source is checked here in full before anything is written."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ts4s_core.artifacts.versions.refs import ArtifactRef, slug
from ts4s_core.errors import SettingsError, SourceError
from ts4s_core.onnx.sources import folder as sources_folder
from ts4s_core.onnx.sources import hub as sources_hub
from ts4s_core.onnx.sources.tokenizer_files import has_tokenizer, tokenizer_files, tokenizer_hash
from ts4s_core.settings import ModelSettings
from ts4s_core.task_kinds.kind import BaseTask
from ts4s_core.task_kinds.registry import kind_of

if TYPE_CHECKING:
    from torch import nn

    from ts4s_core.artifacts.store import ArtifactStore

#: Where and with what a configuration was written: not part of the model.
_LOCAL_KEYS = ("_name_or_path", "name_or_path", "transformers_version")

Kind = Literal["hub", "folder", "package", "onnx", "registry", "config"]


@dataclass(frozen=True)
class ModelSource:
    """A checked source.

    Attributes:
        kind: what it is.
        slug: name of the artifact that is made of it.
        identity: hash of the content that matters: configuration, weights (or their seed), tokenizer.
        task: what the graph is for.
        config: the Hugging Face configuration as JSON values, defaults included; empty for an ONNX file without one.
        tokenizer: files of the tokenizer by name; empty for a registry source, which has its own in the artifact.
        path: the folder or the ONNX file; None for a configuration and for the registry.
        ref: the trained artifact of a registry source.
        seed: seed of random weights (kind ``config``).
    """

    kind: Kind
    slug: str
    identity: str
    task: BaseTask
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    tokenizer: dict[str, bytes] = field(default_factory=dict, repr=False)
    path: Path | None = None
    ref: ArtifactRef | None = None
    seed: int = 0

    @property
    def max_positions(self) -> int:
        """The longest sequence that the model takes, or a large number where nothing limits it."""
        return max_positions(self.config)

    def load(self) -> tuple[nn.Module, Any]:
        """The encoder without a head, or the causal language model, in eval mode and float32; and its configuration.

        Raises:
            SourceError: if the source has no Hugging Face module (an ONNX file, the registry).
        """
        import torch

        from ts4s_core.onnx.sources.families import build_module

        if self.kind in ("onnx", "registry"):
            raise SourceError(f"Source {self.slug} is a graph already: there is no Hugging Face module to load")
        config = config_object(self.config, source=self.slug)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = build_module(config, self.task)
        if self.path is not None:
            files = sources_folder.weight_files(self.path, source=self.slug)
            tensors = sources_folder.stored_tensors(files, source=self.slug)
            sources_folder.load_weights(module, sources_folder.match_weights(module, tensors, source=self.slug))
        return module, config


def resolve_source(settings: ModelSettings, store: ArtifactStore, *, seed: int = 0) -> ModelSource:
    """Find and check the base model that the settings name. Nothing is written; a local source uses no network.

    Args:
        settings: the group ``model``.
        store: where ``model:NAME`` is looked up.
        seed: ``train.seed``, of which random weights are drawn.

    Raises:
        SourceError: saying what is missing or damaged.
        UnsupportedModelError: if the family, the opset or the task is not taken.
        NotFoundError: if the registry has no such model.
        SettingsError: if ``model.max_length`` is longer than the model takes.
    """
    given = settings.source
    task = kind_of(settings.task).base
    if settings.architecture != "transformer":
        raise SettingsError(
            f"model.architecture {settings.architecture} is no transformer that model.source could name: expected transformer. "
            "Small networks are trained by ts4s language-model"
        )
    local = Path(os.path.expanduser(given))
    if given.startswith("model:"):
        source = _registry_source(given, store, task=task)
    elif given.startswith("config:"):
        source = _config_source(settings, task=task, seed=seed)
    elif given.startswith("package:"):
        name = given.removeprefix("package:")
        folder = sources_folder.package_folder(name, source=given)
        source = _folder_source(folder, settings, task=task, kind="package", name=slug(name.replace("-", "_")))
    elif given.endswith(".onnx") and not local.is_dir():
        source = _onnx_source(local, settings, task=task)
    elif given[0] in "/.~" or local.exists():
        source = _folder_source(local, settings, task=task, kind="folder", name="")
    else:
        folder = sources_hub.fetch(given, setting="model.source", with_model=True)
        source = _folder_source(folder, settings, task=task, kind="hub", name=slug(given))
    if settings.max_length > source.max_positions:
        raise SettingsError(
            f"model.max_length {settings.max_length} is longer than model.source {given} takes: "
            f"expected at most {source.max_positions}"
        )
    return source


def config_object(config: dict[str, Any], *, source: str) -> Any:
    """The Hugging Face configuration of a dictionary.

    Raises:
        SourceError: if its family is unknown or a value is refused.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    family = config.get("model_type")
    if not isinstance(family, str) or family not in CONFIG_MAPPING:
        raise SourceError(
            f"model.source {source}: config.json has model_type {family!r}: "
            'expected a model family that transformers knows, as in "bert"'
        )
    try:
        return CONFIG_MAPPING[family].from_dict(dict(config))
    except Exception as exc:  # dataclass validation errors of several libraries
        raise SourceError(f"model.source {source}: config.json is refused: {str(exc)[:400]}") from exc


def max_positions(config: dict[str, Any]) -> int:
    """The longest sequence of a configuration: its position table, less what RoBERTa reserves, or its attention window."""
    limits = [config[name] for name in ("max_position_embeddings", "n_positions") if isinstance(config.get(name), int)]
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert") and limits:
        padding = config.get("pad_token_id")
        limits = [limit - (padding if isinstance(padding, int) else 1) - 1 for limit in limits]
    # A graph has no sliding window: it is exact as long as the window covers the whole text.
    if isinstance(config.get("sliding_window"), int) and config.get("use_sliding_window", True):
        limits.append(config["sliding_window"])
    return min(limits, default=2**20)


def _folder_source(folder: Path, settings: ModelSettings, *, task: BaseTask, kind: Kind, name: str) -> ModelSource:
    given = settings.source
    sources_folder.check_folder(folder, source=given)
    record = sources_folder.read_json_object(folder / sources_folder.CONFIG_FILE, source=given)
    config = _with_defaults(record, task=task, source=given)
    files = sources_folder.weight_files(folder, source=given)
    tensors = sources_folder.stored_tensors(files, source=given)
    sources_folder.match_weights(_empty_module(config, task=task, source=given), tensors, source=given)
    identity = sources_folder.content_hash([folder / sources_folder.CONFIG_FILE, *files])
    tokenizer = _tokenizer(settings, folder, config)
    named = name or f"{slug(folder.resolve().name)[:100]}-{identity[:8]}"
    return ModelSource(kind, named, _joined(identity, tokenizer), task, config, tokenizer, folder)


def _config_source(settings: ModelSettings, *, task: BaseTask, seed: int) -> ModelSource:
    given = settings.source
    path = Path(os.path.expanduser(given.removeprefix("config:")))
    if not path.is_file():
        raise SourceError(f"model.source {given} does not exist: expected a JSON file with a Hugging Face configuration")
    config = checked_config(sources_folder.read_json_object(path, source=given), task=task, source=given)
    identity = sources_folder.content_hash([path])
    tokenizer = _tokenizer(settings, path.parent, config)
    named = f"{slug(path.stem)[:100]}-{identity[:8]}"
    return ModelSource("config", named, _joined(f"{identity}:{seed}", tokenizer), task, config, tokenizer, seed=seed)


def _onnx_source(path: Path, settings: ModelSettings, *, task: BaseTask) -> ModelSource:
    from ts4s_core.onnx.sources.onnx_file import read_onnx_file

    given = settings.source
    _model, external = read_onnx_file(path, source=given)
    beside = path.parent / sources_folder.CONFIG_FILE
    config = sources_folder.read_json_object(beside, source=given) if beside.is_file() else {}
    identity = sources_folder.content_hash([path, *external, *([beside] if config else [])])
    tokenizer = _tokenizer(settings, path.parent, config)
    named = f"{slug(path.stem)[:100]}-{identity[:8]}"
    return ModelSource("onnx", named, _joined(identity, tokenizer), task, config, tokenizer, path)


def _registry_source(given: str, store: ArtifactStore, *, task: BaseTask) -> ModelSource:
    from ts4s_core.artifacts.registry import Registry

    ref = Registry(store).resolve(given.removeprefix("model:"))
    manifest = store.manifest(ref)
    has_config = any(entry.path == sources_folder.CONFIG_FILE for entry in manifest.files)
    config = json.loads(store.local_file(ref, sources_folder.CONFIG_FILE).read_bytes()) if has_config else {}
    return ModelSource("registry", ref.name, manifest.content_sha256, task, config, ref=ref)


def checked_config(record: dict[str, Any], *, task: BaseTask, source: str) -> dict[str, Any]:
    """A configuration with its defaults, of a family that is taken and describes a module that can be built.

    Raises:
        SourceError, UnsupportedModelError: saying what is wrong with it.
    """
    config = _with_defaults(record, task=task, source=source)
    _empty_module(config, task=task, source=source)
    return config


def _with_defaults(record: dict[str, Any], *, task: BaseTask, source: str) -> dict[str, Any]:
    from ts4s_core.onnx.sources.families import family_task

    config = config_object(record, source=source)
    family_task(config.model_type, wanted=task, source=source)
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))  # defaults too: the pad token is one
    return {name: value for name, value in sorted(values.items()) if name not in _LOCAL_KEYS}


def _empty_module(config: dict[str, Any], *, task: BaseTask, source: str) -> nn.Module:
    """The module without memory for its weights: a wrong configuration shows here."""
    import torch

    from ts4s_core.onnx.sources.families import build_module

    try:
        with torch.device("meta"):
            return build_module(config_object(config, source=source), task)
    except (ValueError, TypeError, RuntimeError, AttributeError, KeyError, ZeroDivisionError) as exc:
        raise SourceError(f"model.source {source}: config.json describes no model that can be built: {str(exc)[:300]}") from exc


def _tokenizer(settings: ModelSettings, folder: Path, config: dict[str, Any]) -> dict[str, bytes]:
    size = config.get("vocab_size")
    vocabulary = size if isinstance(size, int) else None
    if settings.tokenizer is not None:
        return given_tokenizer(settings.tokenizer, vocabulary=vocabulary)
    if not has_tokenizer(folder):
        raise SourceError(
            f"model.source {settings.source} has no tokenizer: expected tokenizer.json beside it. Give model.tokenizer"
        )
    return tokenizer_files(folder, setting=f"model.source {settings.source}", vocabulary=vocabulary)


def given_tokenizer(given: str, *, vocabulary: int | None) -> dict[str, bytes]:
    """Files of the tokenizer that ``model.tokenizer`` names: a folder, ``package:NAME`` or a hub id.

    Raises:
        SourceError: there is none, it is damaged, or it has more tokens than ``vocabulary``.
    """
    local = Path(os.path.expanduser(given))
    if given.startswith("package:"):
        local = sources_folder.package_folder(given.removeprefix("package:"), source=given)
    elif given[0] not in "/.~" and not local.exists():
        local = sources_hub.fetch(given, setting="model.tokenizer", with_model=False)
    return tokenizer_files(local, setting=f"model.tokenizer {given}", vocabulary=vocabulary)


def _joined(identity: str, tokenizer: dict[str, bytes]) -> str:
    return hashlib.sha256(f"{identity}\n{tokenizer_hash(tokenizer)}".encode()).hexdigest()
