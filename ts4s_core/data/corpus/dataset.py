"""Reading the dataset artifact of a language model: blocks of tokens, and the windows over them."""

from __future__ import annotations

import json

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.manifest import Manifest
from ts4s_core.data.corpus.facts import CorpusFacts
from ts4s_core.data.dataset import Dataset
from ts4s_core.data.schema import WINDOWS_FILE
from ts4s_core.errors import DataError
from ts4s_core.task_kinds.language_model import LANGUAGE_MODEL
from ts4s_core.task_kinds.registry import kind_of


class TextDataset(Dataset):
    """A language model's dataset version. Memory does not grow with its size.

    Attributes:
        window: tokens that are predicted from each window start.
        stride: tokens between window starts.
        vocabulary: tokens of the tokenizer.
        begin_id: token that every block begins with; None: the tokenizer has none.
        text_bytes: bytes of each side's text.
    """

    def __init__(self, store: ArtifactStore, manifest: Manifest) -> None:
        super().__init__(store, manifest)
        if kind_of(self.task).rows != LANGUAGE_MODEL.rows:
            raise DataError(
                f"{self.ref} is a dataset for {self.task}: expected one for {LANGUAGE_MODEL.name}. Prepare the text first"
            )
        facts = CorpusFacts.of(manifest)
        self.window, self.stride = facts.window, facts.stride
        self.vocabulary = facts.vocabulary
        self.begin_id = facts.begin_id
        self.text_bytes = facts.bytes
        self._windows: dict[str, tuple[int, ...]] | None = None

    def windows_per_group(self, side: str) -> tuple[int, ...]:
        """Windows of each row group of a side: what a plan of batches is made from."""
        if self._windows is None:
            with self._store.open_file(self.ref, WINDOWS_FILE) as file:
                self._windows = {name: tuple(counts) for name, counts in json.load(file).items()}
        return self._windows[side]
