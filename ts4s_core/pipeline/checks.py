"""What is checked before the first write, beyond what the settings, the model source and the scan of the data check."""

from __future__ import annotations

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

TOKENIZER_FILE = "tokenizer.json"


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
    """Make sure that the source can be imported later, and that its tokenizer leaves room for text.

    Raises:
        UnsupportedModelError: naming the node and operator of an ONNX file that is not taken.
        SettingsError: if ``model.max_length`` holds special tokens alone.
    """
    from ts4s_core.data.tokenizers import limited, load_tokenizer, tokenizer_from

    if source.ref is not None:
        load_tokenizer(store.local(source.ref) / "tokenizer", max_length=settings.model.max_length)
    elif TOKENIZER_FILE in source.tokenizer:
        limited(tokenizer_from(source.tokenizer[TOKENIZER_FILE].decode("utf-8")), settings.model.max_length)
    if source.kind == "onnx" and source.path is not None:
        from ts4s_core.onnx.importing.importer import assemble
        from ts4s_core.onnx.rewriting.rewrite import rewrite

        assemble(rewrite(source.path, None).graph)
