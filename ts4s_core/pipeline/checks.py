"""What is checked before the first write, beyond what the settings, the model source and the scan of the data check."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ts4s_core.artifacts.storage.folder import nearest
from ts4s_core.errors import DataError, SettingsError, listed
from ts4s_core.host_user import expanded
from ts4s_core.settings import Settings

if TYPE_CHECKING:
    from ts4s_core.artifacts.store import ArtifactStore
    from ts4s_core.onnx.sources.resolve import ModelSource

_LOG = logging.getLogger(__name__)


def check_store(settings: Settings) -> None:
    """Make sure that a folder can be written to, as far as that shows without writing.

    Raises:
        SettingsError: if it cannot.
    """
    uri = settings.storage.uri
    if "://" in uri and not uri.startswith("file://"):
        return
    folder = expanded(uri.removeprefix("file://")).absolute()
    place = nearest(folder)
    if not place.is_dir():
        raise SettingsError(f"storage.uri {uri} is not usable: expected a folder, got the file {place}. Choose another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise SettingsError(f"storage.uri {uri} is not usable: no right to write in {place}. Choose another folder")


def check_classes(settings: Settings, labels: Sequence[str]) -> None:
    """Make sure that ``model.classes``, where it is given, is what the data have.

    Raises:
        DataError: if it is not.
    """
    classes = settings.model.classes
    if classes not in (0, len(labels)):
        raise DataError(
            f"model.classes {classes} does not fit the data: expected {len(labels)}, the number of their labels "
            f"({listed(labels)}). Leave it at 0 to take it from the data"
        )


def check_source(settings: Settings, source: ModelSource, store: ArtifactStore) -> None:
    """Make sure that the source can be imported later, and that its tokenizer fits it and leaves room for text.

    Raises:
        UnsupportedModelError: naming the node and operator of an ONNX file that is not taken.
        SourceError: if the tokenizer has ids beyond the model's table.
        SettingsError: if ``model.max_length`` holds special tokens alone, or is longer than the model takes.
    """
    from ts4s_core.data.tokenizers import StoredTokenizer

    if source.ref is not None:
        stored = StoredTokenizer.read(store.local(source.ref) / "tokenizer")
    else:
        stored = StoredTokenizer.of(source.tokenizer)
    max_length = settings.model.max_length
    stored.load(max_length=max_length)
    if stored.encoding.within(max_length) < max_length:
        _LOG.warning(
            "texts are cut to %d tokens, the tokenizer's model_max_length, not to model.max_length %d",
            stored.encoding.within(max_length),
            max_length,
        )
    if source.kind == "onnx" and source.path is not None:
        from ts4s_core.onnx.importing.sizes import check_file

        named = f"model.source {settings.model.source}"
        check_file(source.path, largest_id=stored.largest_id, length=max_length, setting="model.max_length", source=named)
