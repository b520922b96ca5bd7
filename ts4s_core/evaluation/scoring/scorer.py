"""A trained model made ready to score the rows of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.manifest import Manifest
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.facts import DatasetFacts
from ts4s_core.data.tokenizers import ENCODING_FILE, TOKENIZER_FILE, load_tokenizer, tokenize
from ts4s_core.errors import DataError, listed
from ts4s_core.evaluation.scoring.dataset_rows import dataset_labels
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.models.spec import SPEC_FILE, ModelSpec

if TYPE_CHECKING:
    from ts4s_core.models.trainable import TrainableModel

_ENCODING_FILES = (f"tokenizer/{TOKENIZER_FILE}", f"tokenizer/{ENCODING_FILE}")


@dataclass(frozen=True)
class Scorer:
    """A model in evaluation mode.

    Attributes:
        model: forward(input_ids, attention_mask) -> logits (B, classes of the model).
        columns: for each class of the dataset its place among the model's logits.
        pad_id: token of the padding.
        tokenizer: the model's own, where the dataset's tokens are another one's; else None.
    """

    model: TrainableModel
    columns: Sequence[int]
    pad_id: int
    tokenizer: Any | None

    @property
    def needs_texts(self) -> bool:
        """Whether texts have to be tokenised anew."""
        return self.tokenizer is not None

    @classmethod
    def load(cls, store: ArtifactStore, *, trained: ArtifactRef, dataset: ArtifactRef) -> Scorer:
        """Build the model of a ``trained`` artifact for the rows of a dataset.

        Raises:
            DataError: if the two have different labels.
            IntegrityError: if a file is damaged.
        """
        opened = ModelFolder(store.local(trained))
        return cls(
            model=opened.build().eval(),
            columns=columns_of(opened.spec.labels, dataset_labels(store, dataset)),
            pad_id=opened.spec.pad_id,
            tokenizer=None if same_tokens(store, trained, dataset) else _tokenizer(opened),
        )

    def tokenized(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of some texts by the model's own tokenizer, cut to its length."""
        assert self.tokenizer is not None, "asked for where the dataset's tokens are another tokenizer's"
        return [tokens.ids for tokens in tokenize(self.tokenizer, texts, fallback_id=self.pad_id)]


def spec_of(store: ArtifactStore, trained: ArtifactRef) -> ModelSpec:
    """What ``model.json`` of a trained artifact says; reads that file alone.

    Raises:
        IntegrityError: if it is damaged.
    """
    return ModelSpec.read(store.local_file(trained, SPEC_FILE).parent)


def same_tokens(store: ArtifactStore, trained: ArtifactRef, dataset: ArtifactRef) -> bool:
    """Whether the dataset was tokenised as the model wants it: the same tokenizer, the same length."""
    ours, theirs = store.manifest(trained), store.manifest(dataset)
    if DatasetFacts.of(theirs).max_length != spec_of(store, trained).max_length:
        return False
    return _encoding_files(ours) == _encoding_files(theirs)


def _encoding_files(manifest: Manifest) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in manifest.files if entry.path in _ENCODING_FILES}


def _tokenizer(opened: ModelFolder) -> Any:
    return load_tokenizer(opened.tokenizer_folder, max_length=opened.spec.max_length)


def columns_of(model_labels: Sequence[str], dataset_labels: Sequence[str]) -> list[int]:
    """Where the dataset's classes stand among the model's.

    Raises:
        DataError: if the two sets of names differ.
    """
    missing, extra = sorted(set(dataset_labels) - set(model_labels)), sorted(set(model_labels) - set(dataset_labels))
    if missing or extra:
        raise DataError(
            f"evaluation failed: expected the model's labels, got other ones (only in the dataset: {listed(missing) or 'none'}; "
            f"only in the model: {listed(extra) or 'none'}). Evaluate on a dataset with the same labels"
        )
    return [list(model_labels).index(name) for name in dataset_labels]
