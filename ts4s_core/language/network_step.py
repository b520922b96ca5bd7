"""The model artifact of a window or recurrent network: sizes from the settings, random weights or word vectors."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ts4s_core.artifacts.steps import StepResult, run_step
from ts4s_core.artifacts.versions.keys import step_key
from ts4s_core.errors import SettingsError
from ts4s_core.host_user import expanded
from ts4s_core.language.word_vector_file import read_word_vectors, vector_size
from ts4s_core.models.facts import ModelFacts, Parameters, WordVectorsFound
from ts4s_core.models.network_spec import NetworkSpec
from ts4s_core.models.spec import SPEC_FILE, WEIGHTS_FILE, ModelSpec
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import ModelSettings, Settings
from ts4s_core.settings.network_sizes import NETWORK_SIZES
from ts4s_core.task_kinds.language_model import LANGUAGE_MODEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ts4s_core.artifacts.store import ArtifactStore
    from ts4s_core.artifacts.versions.refs import ArtifactRef
    from ts4s_core.artifacts.writer import ArtifactWriter
    from ts4s_core.models.trainable import TrainableModel

STEP = "import"
#: Where the code of this step begins, for its key.
ENTRIES = (__name__,)
STAGES = 2
DEFAULT_DROPOUT = 0.1
#: Settings of the group ``model`` that a network is made by.
_KEY_SETTINGS = (
    "architecture",
    "hidden_size",
    "layers",
    "attention_heads",
    "embedding_size",
    "context",
    "cell",
    "dropout",
    "freeze_word_vectors",
    "tie_word_embeddings",
)


@dataclass(frozen=True)
class InitialEmbedding:
    """Initial token vectors from a file of word vectors.

    Attributes:
        matrix: ``(V, E)`` float32, NaN where the file had no vector; None: there is no file.
        found: tokens that have a vector in the file.
    """

    matrix: NDArray[np.float32] | None = None
    found: int = 0


def check_network(settings: Settings) -> None:
    """Check what the settings say of the network, and that the file of word vectors can be read.

    Raises:
        InputError: naming the setting.
    """
    network_spec(settings, vocabulary=2)
    if settings.model.word_vectors is not None:
        read_word_vectors(_path(settings.model.word_vectors), wanted=(), setting="model.word_vectors")


def network_spec(settings: Settings, *, vocabulary: int) -> NetworkSpec:
    """The sizes of the network that the settings describe.

    Raises:
        SettingsError: sizes that do not go together.
        SourceError: the file of word vectors cannot be read.
    """
    model = settings.model
    embedding = _embedding_size(model)
    is_window = model.architecture == "window"
    if is_window and model.attention_heads and embedding % model.attention_heads:
        raise SettingsError(
            f"model.attention_heads {model.attention_heads} does not divide the size {embedding} of a token's vector: "
            "use a divisor"
        )
    return NetworkSpec(
        architecture="window" if is_window else "recurrent",
        vocab_size=vocabulary,
        embedding_size=embedding,
        hidden_size=model.hidden_size or NETWORK_SIZES["hidden_size"],
        positions=model.context if is_window else settings.data.window,
        attention_heads=model.attention_heads,
        layers=model.layers or NETWORK_SIZES["layers"],
        cell=model.cell,
        frozen_embedding=model.freeze_word_vectors,
        tied=model.tie_word_embeddings,
    )


def make_network(settings: Settings, store: ArtifactStore, *, tokenizer: Path, progress: Progress = silent) -> StepResult:
    """Make the ``model`` artifact of a small network, or find the one that was made before.

    Args:
        settings: groups ``model`` and ``data.window``, ``train.seed``, ``name`` and ``reuse``.
        store: where to look and to write.
        tokenizer: folder of the tokenizer that the windows were made with.
        progress: called as the step goes on.

    Raises:
        InputError: as :func:`check_network`, or no token has a vector in the file.
    """
    from ts4s_core.data.tokenizers import tokenizer_sha256

    model = settings.model
    key_settings = {
        **model.model_dump(mode="json", include=set(_KEY_SETTINGS)),
        "window": settings.data.window,
        "seed": settings.train.seed,
    }
    inputs = {"tokenizer": tokenizer_sha256(tokenizer)}
    if model.word_vectors is not None:
        with _path(model.word_vectors).open("rb") as file:
            inputs["word_vectors"] = hashlib.file_digest(file, "sha256").hexdigest()
    return run_step(
        store,
        kind="model",
        name=settings.name,
        key=step_key("network", entries=ENTRIES, inputs=inputs, settings=key_settings),
        settings=key_settings,
        upstream={},
        reuse=settings.reuse,
        build=lambda writer: _write(writer, settings, tokenizer, progress=progress),
    )


def continue_network(settings: Settings, store: ArtifactStore, *, trained: ArtifactRef) -> StepResult:
    """Make the ``model`` artifact that goes on from a trained small network, or find the one that was made before.

    Args:
        settings: ``model.dropout`` and ``data.window``, ``name`` and ``reuse``.
        store: where to look and to write.
        trained: the network; its sizes, weights and tokenizer are kept.
    """
    key_settings = {"dropout": settings.model.dropout, "window": settings.data.window}
    return run_step(
        store,
        kind="model",
        name=settings.name,
        key=step_key(
            "network", entries=ENTRIES, inputs={"trained": store.manifest(trained).content_sha256}, settings=key_settings
        ),
        settings=key_settings,
        upstream={"onnx": trained},
        reuse=settings.reuse,
        build=lambda writer: _copy(writer, settings, store.local(trained)),
    )


def _copy(writer: ArtifactWriter, settings: Settings, folder: Path) -> None:
    from ts4s_core.models.model_folder import ModelFolder

    opened = ModelFolder(folder)
    network = opened.build()
    dropout = network.spec.dropout if settings.model.dropout is None else settings.model.dropout
    spec = replace(network.spec, dropout=dropout, max_length=settings.data.window)
    writer.add_file(opened.weights_file, WEIGHTS_FILE)
    _describe(writer, network, spec, tokenizer=opened.tokenizer_folder)


def _write(writer: ArtifactWriter, settings: Settings, tokenizer: Path, *, progress: Progress) -> None:
    from ts4s_core.data.tokenizers import pad_id_of
    from ts4s_core.models.small_networks import build_network, initial_weights
    from ts4s_core.models.trainable import tensors_of
    from ts4s_core.models.weights import save_weights
    from ts4s_core.onnx.importing.importer import put_tensors

    progress(STEP, {"stage": 1, "stages": STAGES, "doing": "read word vectors"})
    vocabulary, given = _given(settings.model, tokenizer)
    spec = _model_spec(settings, network_spec(settings, vocabulary=vocabulary), pad_id=pad_id_of(tokenizer))
    progress(STEP, {"stage": 2, "stages": STAGES, "doing": "store"})
    network = build_network(spec)
    put_tensors(network, initial_weights(network, seed=settings.train.seed, vectors=given.matrix))
    with tempfile.TemporaryDirectory(prefix="ts4s-network-") as temporary:
        save_weights(Path(temporary) / WEIGHTS_FILE, tensors_of(network))
        writer.add_file(Path(temporary) / WEIGHTS_FILE, WEIGHTS_FILE)
    _describe(writer, network, spec, tokenizer=tokenizer, found=WordVectorsFound(tokens=vocabulary, found=given.found))


def _describe(
    writer: ArtifactWriter, network: TrainableModel, spec: ModelSpec, *, tokenizer: Path, found: WordVectorsFound | None = None
) -> None:
    """Everything of a model artifact but its weights' file."""
    from ts4s_core.models.weights import weights_sha256

    assert spec.network is not None
    writer.add_json(SPEC_FILE, {**spec.to_json(), "parameters": list(network.parameter_names)})
    writer.add_folder(tokenizer, "tokenizer")
    trained = network.trained_tensors()
    facts = ModelFacts(
        task=spec.task,
        classes=0,
        architecture=spec.network["architecture"],
        parameters=Parameters(
            total=sum(parameter.numel() for parameter in network.parameters()),
            trainable=sum(tensor.size for tensor in trained.values()),
        ),
        head="none",
        weights_sha256=weights_sha256(trained),
        word_vectors=found,
    )
    writer.facts = facts.to_json()


def _model_spec(settings: Settings, network: NetworkSpec, *, pad_id: int) -> ModelSpec:
    model = settings.model
    return ModelSpec(
        task=LANGUAGE_MODEL.name,
        labels=(),
        hidden_size=network.vocab_size,
        dropout=DEFAULT_DROPOUT if model.dropout is None else model.dropout,
        attention_dropout=0.0,
        freeze_encoder=False,
        lora_rank=0,
        lora_alpha=model.lora_alpha,
        max_length=settings.data.window,
        pad_id=pad_id,
        vocab_size=network.vocab_size,
        fixed_shape=None,
        network=network.to_json(),
    )


def _given(model: ModelSettings, tokenizer: Path) -> tuple[int, InitialEmbedding]:
    """The size of the vocabulary, and the vectors of its tokens."""
    from ts4s_core.language.tokens import tokenizer_of
    from ts4s_core.language.word_vectors import token_words

    described = tokenizer_of(tokenizer)
    loaded, vocabulary = described.load(), described.vocabulary
    if model.word_vectors is None:
        return vocabulary, InitialEmbedding()
    names = [loaded.id_to_token(number) or "" for number in range(vocabulary)]
    words = token_words(loaded, names)
    wanted = {word for word in words if word} | {word.lower() for word in words if word}
    vectors = read_word_vectors(_path(model.word_vectors), wanted=wanted, setting="model.word_vectors")
    places = {word: place for place, word in enumerate(vectors.words)}
    matrix = np.full((vocabulary, vectors.size), np.nan, np.float32)
    for number, word in enumerate(words):
        place = places.get(word, places.get(word.lower()))
        if word and place is not None:
            matrix[number] = vectors.matrix[place]
    found = int((~np.isnan(matrix[:, 0])).sum())
    if not found:
        raise SettingsError(
            f"model.word_vectors {model.word_vectors} has a vector for none of the {vocabulary} tokens: expected words of the "
            "text. Use model.tokenizer_kind word-level, or another file"
        )
    return vocabulary, InitialEmbedding(matrix, found)


def _embedding_size(model: ModelSettings) -> int:
    if model.word_vectors is None:
        return model.embedding_size or NETWORK_SIZES["embedding_size"]
    size = vector_size(_path(model.word_vectors), setting="model.word_vectors")
    if model.embedding_size not in (0, size):
        raise SettingsError(
            f"model.embedding_size {model.embedding_size} differs from the {size} numbers of a vector in model.word_vectors "
            f"{model.word_vectors}: leave it out"
        )
    return size


def _path(given: str) -> Path:
    return expanded(given)
