"""Fills in a language model's defaults, and describes the built-in transformers. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ts4s_core.errors import SettingsError
from ts4s_core.settings import ModelSettings, Settings
from ts4s_core.settings.network_sizes import TRANSFORMER_SIZES
from ts4s_core.task_kinds.language_model import DECODER, LANGUAGE_MODEL
from ts4s_core.task_kinds.registry import kind_of_flow

LLAMA_DECODER = "config:llama-decoder"
#: A multiplication of matrices likes multiples of this.
_ALIGNMENT = 16

#: Windows of new models overlap by three quarters, so that a token is seen at several places.
_STRIDES_IN_A_WINDOW = 4


def trains_from_scratch(model: ModelSettings) -> bool:
    """Whether a language model is trained from scratch: from random weights."""
    return model.architecture != "transformer" or model.source.startswith("config:")


def with_defaults(settings: Settings) -> Settings:
    """The settings of a language model: what was not set gets the value of the kind's defaults, or of those of new models.

    Raises:
        SettingsError: ``model.task`` or ``model.max_length`` was set to something that no language model has.
    """
    model, window = settings.model, settings.data.window
    if "task" in model.model_fields_set:
        kind_of_flow(LANGUAGE_MODEL.flow, model.task)
    if "max_length" in model.model_fields_set and model.max_length != window:
        raise SettingsError(
            f"model.max_length {model.max_length} has no meaning for a language model, whose texts are windows of "
            f"data.window {window} tokens: leave it out"
        )
    settings = _filled(settings, LANGUAGE_MODEL.defaults)
    changes: dict[str, Any] = {"model": settings.model.model_copy(update={"max_length": window})}
    if not trains_from_scratch(settings.model):
        return settings.model_copy(update=changes)
    if "stride" not in settings.data.model_fields_set:
        changes["data"] = settings.data.model_copy(update={"stride": max(1, window // _STRIDES_IN_A_WINDOW)})
    return _filled(settings.model_copy(update=changes), LANGUAGE_MODEL.defaults_of_new)


def _filled(settings: Settings, table: Mapping[str, Mapping[str, Any]]) -> Settings:
    """The settings with a table's values where nothing was set."""
    changes = {}
    for group, defaults in table.items():
        values = getattr(settings, group)
        unset = {name: value for name, value in defaults.items() if name not in values.model_fields_set}
        changes[group] = values.model_copy(update=unset)
    return settings.model_copy(update=changes)


def built_in_config(model: ModelSettings, *, positions: int) -> dict[str, Any] | None:
    """The Hugging Face configuration of a built-in transformer; None if ``model.source`` names none.

    The vocabulary is not in it: it is the tokenizer's.

    Raises:
        SettingsError: the heads do not divide the hidden size.
    """
    if model.source not in (DECODER, LLAMA_DECODER):
        return None
    sizes = {name: getattr(model, name) or size for name, size in TRANSFORMER_SIZES.items()}
    hidden, layers, heads = (sizes[name] for name in ("hidden_size", "layers", "attention_heads"))
    per_head = 2 if model.source == LLAMA_DECODER else 1  # rotary positions turn pairs of numbers
    if hidden % (heads * per_head):
        raise SettingsError(
            f"model.hidden_size {hidden} cannot be cut into model.attention_heads {heads}: use a multiple of {heads * per_head}"
        )
    if model.source == DECODER:
        return {
            "model_type": "gpt2",
            "n_positions": positions,
            "n_embd": hidden,
            "n_layer": layers,
            "n_head": heads,
            "resid_pdrop": 0.1,
            "embd_pdrop": 0.1,
            "attn_pdrop": 0.0,
        }
    return {
        "model_type": "llama",
        "max_position_embeddings": positions,
        "hidden_size": hidden,
        "intermediate_size": -(-8 * hidden // (3 * _ALIGNMENT)) * _ALIGNMENT,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "tie_word_embeddings": True,
    }
