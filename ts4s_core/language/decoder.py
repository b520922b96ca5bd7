"""Making the model of a language model: an exported and imported transformer, or a small network.

    transformer   model.source --export--> onnx artifact --import--> model artifact with a language model's head
    window, recurrent                      sizes from the settings --> model artifact without a graph

What begins with random weights takes its vocabulary from the tokenizer of the windows; what is pretrained brings one.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import SettingsError, SourceError
from ts4s_core.language.defaults import built_in_config, trains_from_scratch
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import ModelSettings, Settings
from ts4s_core.settings.network_sizes import TRANSFORMER_SIZES

if TYPE_CHECKING:
    from ts4s_core.artifacts.store import ArtifactStore
    from ts4s_core.onnx.sources.resolve import ModelSource

_TOKENIZER = "tokenizer/"


def source_tokenizer(settings: Settings, store: ArtifactStore) -> dict[str, bytes] | None:
    """Files of the tokenizer that the settings name or the model's source brings; None: one is to be trained on the text.

    Raises:
        InputError: the settings name a tokenizer that cannot be read, or the model's source should bring one and does not.
    """
    from ts4s_core.onnx.sources.tokenizer_files import given_tokenizer

    model = settings.model
    if trains_from_scratch(model):
        return given_tokenizer(model.tokenizer, vocabulary=None) if model.tokenizer is not None else _beside_config(model)
    source = _pretrained(settings, store)
    if source.ref is None:
        return source.tokenizer
    manifest = store.manifest(source.ref)
    paths = [entry.path for entry in manifest.files if entry.path.startswith(_TOKENIZER)]
    return {path.removeprefix(_TOKENIZER): store.local_file(source.ref, path).read_bytes() for path in paths}


def check_decoder(settings: Settings, store: ArtifactStore) -> None:
    """Check everything that the settings say of the model; writes nothing.

    Raises:
        InputError: naming the setting.
    """
    model, window = settings.model, settings.data.window
    if model.architecture != "transformer":
        from ts4s_core.language.network_step import check_network

        check_network(settings)
        return
    if not trains_from_scratch(model):
        _refuse_sizes(model)
        source = _pretrained(settings, store)
        _check_positions(model.source, source.max_positions, window)
        if source.kind == "onnx" and source.path is not None:
            from ts4s_core.data.tokenizers import StoredTokenizer
            from ts4s_core.onnx.importing.sizes import check_file

            largest, named = StoredTokenizer.of(source.tokenizer).largest_id, f"model.source {model.source}"
            check_file(source.path, largest_id=largest, length=window, setting="data.window", source=named)
        return
    if built_in_config(model, positions=window) is None:
        _refuse_sizes(model)
    config = _checked_config(settings, vocabulary=2, special={})
    from ts4s_core.onnx.sources.resolve import max_positions

    _check_positions(model.source, max_positions(config), window)


def export_decoder(
    settings: Settings, store: ArtifactStore, *, tokenizer: Path, progress: Progress = silent
) -> StepResult | None:
    """Export the transformer that the settings name, or find what was made of it before; None for a small network.

    Args:
        settings: groups ``model`` and ``data.window``, ``train.seed`` and ``reuse``.
        store: where to look and to write.
        tokenizer: folder of the tokenizer that the windows were made with.
        progress: called as the step goes on.

    Raises:
        InputError: as :func:`check_decoder`.
        ParityError: ONNX Runtime computes something else than the module.
    """
    from ts4s_core.onnx.exporting.step import export_model

    if settings.model.architecture != "transformer":
        return None
    return export_model(settings, store, source=decoder_source(settings, store, tokenizer=tokenizer), progress=progress)


def import_decoder(
    settings: Settings, store: ArtifactStore, *, tokenizer: Path, exported: ArtifactRef | None, progress: Progress = silent
) -> StepResult:
    """Make the model that is trained, or find the one that was made before.

    Args:
        settings: as for :func:`export_decoder`, and ``name``.
        store: where to look and to write.
        tokenizer: folder of the tokenizer that the windows were made with.
        exported: what :func:`export_decoder` gave; None for a small network.
        progress: called as the step goes on.

    Raises:
        InputError: as :func:`check_decoder`.
        ParityError: the import computes something else than the original.
    """
    if exported is None:
        from ts4s_core.language.network_step import make_network

        return make_network(settings, store, tokenizer=tokenizer, progress=progress)
    from ts4s_core.language.network_step import continue_network
    from ts4s_core.models.import_step import import_model
    from ts4s_core.models.model_folder import ModelFolder

    if exported.kind != "onnx" and ModelFolder(store.local(exported)).spec.network is not None:
        return continue_network(settings, store, trained=exported)
    source = decoder_source(settings, store, tokenizer=tokenizer)
    return import_model(settings, store, onnx_ref=exported, classes=0, label_names=None, source=source, progress=progress)


def decoder_source(settings: Settings, store: ArtifactStore, *, tokenizer: Path) -> ModelSource:
    """The transformer that the settings name, its vocabulary that of the tokenizer where its weights are random.

    Raises:
        InputError: as :func:`check_decoder`.
    """
    if not trains_from_scratch(settings.model):
        return _pretrained(settings, store)
    from ts4s_core.onnx.sources.resolve import ModelSource
    from ts4s_core.onnx.sources.tokenizer_files import tokenizer_hash

    files = {path.name: path.read_bytes() for path in sorted(tokenizer.iterdir()) if path.is_file()}
    config = _checked_config(settings, **_vocabulary_of(tokenizer))
    seed = settings.train.seed
    text = f"{json.dumps(config, sort_keys=True)}\n{seed}\n{tokenizer_hash(files)}"
    identity = hashlib.sha256(text.encode()).hexdigest()
    return ModelSource("config", f"{config['model_type']}-{identity[:8]}", identity, "causal-lm", config, files, seed=seed)


def _pretrained(settings: Settings, store: ArtifactStore) -> ModelSource:
    from ts4s_core.onnx.sources.resolve import resolve_source

    return resolve_source(settings.model, store, seed=settings.train.seed)


def _beside_config(model: ModelSettings) -> dict[str, bytes] | None:
    from ts4s_core.onnx.sources.tokenizer_files import has_tokenizer, tokenizer_files

    path = _config_path(model)
    if path is None or not has_tokenizer(path.parent):
        return None
    return tokenizer_files(path.parent, setting=f"model.source {model.source}", vocabulary=None)


def _config_path(model: ModelSettings) -> Path | None:
    """The configuration's file; None for what is built in."""
    if model.architecture != "transformer" or built_in_config(model, positions=2) is not None:
        return None
    return Path(os.path.expanduser(model.source.removeprefix("config:")))


def _checked_config(settings: Settings, *, vocabulary: int, special: dict[str, int | None]) -> dict[str, Any]:
    from ts4s_core.onnx.sources.families import checked_module
    from ts4s_core.onnx.sources.folder import read_json_object

    model = settings.model
    record = built_in_config(model, positions=settings.data.window)
    path = _config_path(model)
    if path is not None:
        if not path.is_file():
            raise SourceError(
                f"model.source {model.source} does not exist: expected config:decoder, config:llama-decoder, "
                "or config: followed by a JSON file with a Hugging Face configuration"
            )
        record = read_json_object(path, source=model.source)
    assert record is not None
    values = {**record, "vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, **special}
    return checked_module(values, task="causal-lm", source=model.source)[0]


def _vocabulary_of(tokenizer: Path) -> dict[str, Any]:
    from ts4s_core.language.tokens import special_ids, tokenizer_of

    described = tokenizer_of(tokenizer)
    names = special_ids(tokenizer, described.load())
    return {"vocabulary": described.vocabulary, "special": {f"{name}_token_id": number for name, number in names.items()}}


def _refuse_sizes(model: ModelSettings) -> None:
    given = [name for name in TRANSFORMER_SIZES if getattr(model, name)]
    if given:
        raise SettingsError(
            f"{', '.join(f'model.{name} {getattr(model, name)}' for name in given)} has no meaning with model.source "
            f"{model.source}, which has its own sizes: leave it out, or use config:decoder"
        )


def _check_positions(source: str, positions: int, window: int) -> None:
    if window > positions:
        raise SettingsError(
            f"data.window {window} is longer than model.source {source} takes: expected at most {positions}. Lower data.window"
        )
