"""What is different by default for a language model, and the built-in transformers. No torch here.

Chosen on the embedded corpus with the default vocabulary: eight epochs of the default decoder come to 2.09 bits per byte of the
test side in three and a half minutes of two cores, where an interpolated Kneser-Ney bigram has 2.17 and a trigram 2.06.
``infra/benchmarks/language_model_quality.py`` measures a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ts4s_core.errors import SettingsError
from ts4s_core.settings import ModelSettings, Settings

DECODER, LLAMA_DECODER = "config:decoder", "config:llama-decoder"
#: Sizes of the networks, where the settings say 0.
TRANSFORMER_SIZES = {"hidden_size": 192, "layers": 4, "attention_heads": 4}
NETWORK_SIZES = {"hidden_size": 256, "layers": 1, "embedding_size": 128}
#: A multiplication of matrices likes multiples of this.
_ALIGNMENT = 16

#: Defaults of ``ts4s language-model`` that differ from those of the settings, by group.
DEFAULTS: dict[str, dict[str, Any]] = {
    "model": {"task": "language-model", "source": DECODER},
    "data": {"test_fraction": 0.1},
    # Of the whole distribution a small vocabulary's pieces make words that are none: 15 of 100, and with these fewer than 8.
    "generate": {"max_new_tokens": 400, "max_copied_tokens": 11, "temperature": 0.8, "top_p": 0.9},
}
#: Further ones for what begins with random weights: many passes at a high rate, with dropout, and the weights that did best
#: on the validation side. Windows overlap by three quarters, so that a token is seen at several places.
DEFAULTS_NEW: dict[str, dict[str, Any]] = {
    "model": {"dropout": 0.2},
    "train": {
        "batch_size": 16,
        "epochs": 8,
        "learning_rate": 2e-3,
        "weight_decay": 0.1,
        "early_stopping_patience": 2,
    },
}
_STRIDES_IN_A_WINDOW = 4


def begins_anew(model: ModelSettings) -> bool:
    """Whether a language model's weights are random at first."""
    return model.architecture != "transformer" or model.source.startswith("config:")


def with_defaults(settings: Settings) -> Settings:
    """The settings of a language model: what was not set gets the value of :data:`DEFAULTS`, or of :data:`DEFAULTS_NEW`.

    Raises:
        SettingsError: ``model.task`` or ``model.max_length`` was set to something that no language model has.
    """
    model, window = settings.model, settings.data.window
    if "task" in model.model_fields_set and model.task != "language-model":
        raise SettingsError(f"model.task {model.task} does not go with ts4s language-model: leave it out, or use ts4s retrain")
    if "max_length" in model.model_fields_set and model.max_length != window:
        raise SettingsError(
            f"model.max_length {model.max_length} has no meaning for a language model, whose texts are windows of "
            f"data.window {window} tokens: leave it out"
        )
    settings = _filled(settings, DEFAULTS)
    changes: dict[str, Any] = {"model": settings.model.model_copy(update={"max_length": window})}
    if not begins_anew(settings.model):
        return settings.model_copy(update=changes)
    if "stride" not in settings.data.model_fields_set:
        changes["data"] = settings.data.model_copy(update={"stride": max(1, window // _STRIDES_IN_A_WINDOW)})
    return _filled(settings.model_copy(update=changes), DEFAULTS_NEW)


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
