"""Facts of a model that can be trained."""

from __future__ import annotations

from typing import ClassVar

from ts4s_core.artifacts.facts import Facts, JsonObject, Record


class Parameters(Record):
    """Numbers of parameters."""

    total: int
    trainable: int


class WordVectorsFound(Record):
    """How many of the tokens have a vector in the given file."""

    tokens: int
    found: int


class ModelFacts(Facts):
    """Facts of an imported model; all have defaults, for modules of the Spark ML estimator have none of them.

    Attributes:
        task: what the head is for.
        classes: 0 for a language model.
        architecture: of a small network.
        parity: differences from the original; see ``ts4s_core.onnx.importing.parity``.
        head: ``new``, ``kept`` or ``none``.
        weights_sha256: over the tensors that training changes.
        word_vectors: of a small network.
    """

    NOUN: ClassVar[str] = "model"
    REMEDY: ClassVar[str] = "Import it again"

    task: str | None = None
    classes: int | None = None
    architecture: str | None = None
    parameters: Parameters | None = None
    parity: JsonObject | None = None
    head: str | None = None
    weights_sha256: str | None = None
    word_vectors: WordVectorsFound | None = None
