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
from ts4s_core.onnx.sources.folder import (
    CONFIG_FILE,
    checked_config_file,
    checked_folder,
    load_weights,
    located,
    match_weights,
    stored_tensors,
    weight_files,
)
from ts4s_core.onnx.sources.onnx_file import checked_onnx_file
from ts4s_core.onnx.sources.tokenizer_files import source_tokenizer, tokenizer_hash
from ts4s_core.settings import ModelSettings
from ts4s_core.task_kinds.kind import BaseTask
from ts4s_core.task_kinds.registry import kind_of

if TYPE_CHECKING:
    from torch import nn

    from ts4s_core.artifacts.store import ArtifactStore

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

        from ts4s_core.onnx.sources.families import build_module, config_object

        if self.kind in ("onnx", "registry"):
            raise SourceError(f"Source {self.slug} is a graph already: there is no Hugging Face module to load")
        config = config_object(self.config, source=self.slug)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = build_module(config, self.task)
        if self.path is not None:
            files = weight_files(self.path, source=self.slug)
            tensors = stored_tensors(files, source=self.slug)
            load_weights(module, match_weights(module, tensors, source=self.slug))
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
    source = _registry_source(given, store, task=task) if given.startswith("model:") else _checked_source(settings, task, seed)
    if settings.max_length > source.max_positions:
        raise SettingsError(
            f"model.max_length {settings.max_length} is longer than model.source {given} takes: "
            f"expected at most {source.max_positions}"
        )
    return source


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


def _checked_source(settings: ModelSettings, task: BaseTask, seed: int) -> ModelSource:
    """A source beside the registry: found, checked by its kind, and its tokenizer with it."""
    given = settings.source
    kind, path = _place(given)
    if kind == "onnx":
        config, identity = checked_onnx_file(path, source=given)
    elif kind == "config":
        config, identity = checked_config_file(path, task=task, source=given)
        identity = f"{identity}:{seed}"
    else:
        config, identity = checked_folder(path, task=task, source=given)
    beside = path.parent if kind in ("onnx", "config") else path
    tokenizer = source_tokenizer(given, beside, given=settings.tokenizer, vocabulary=config.get("vocab_size"))
    joined = hashlib.sha256(f"{identity}\n{tokenizer_hash(tokenizer)}".encode()).hexdigest()
    random = kind == "config"
    return ModelSource(
        kind,
        _name(kind, given, path, identity),
        joined,
        task,
        config,
        tokenizer,
        None if random else path,
        seed=seed if random else 0,
    )


def _place(given: str) -> tuple[Kind, Path]:
    """What a source is, and where it is on this machine; a hub id is fetched."""
    local = Path(os.path.expanduser(given.removeprefix("config:")))
    if given.startswith("config:"):
        return "config", local
    if given.endswith(".onnx") and not given.startswith("package:") and not local.is_dir():
        return "onnx", local
    return located(given, setting="model.source", with_model=True)


def _name(kind: Kind, given: str, path: Path, identity: str) -> str:
    """The name of what is made of a source: the source's own where that is unique, else with a beginning of its hash."""
    if kind == "package":
        return slug(given.removeprefix("package:").replace("-", "_"))
    if kind == "hub":
        return slug(given)
    own = path.resolve().name if kind == "folder" else path.stem
    return f"{slug(own)[:100]}-{identity[:8]}"


def _registry_source(given: str, store: ArtifactStore, *, task: BaseTask) -> ModelSource:
    from ts4s_core.artifacts.registry import Registry

    ref = Registry(store).resolve(given.removeprefix("model:"))
    manifest = store.manifest(ref)
    has_config = any(entry.path == CONFIG_FILE for entry in manifest.files)
    config = json.loads(store.local_file(ref, CONFIG_FILE).read_bytes()) if has_config else {}
    return ModelSource("registry", ref.name, manifest.content_sha256, task, config, ref=ref)
