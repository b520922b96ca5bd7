"""The model families that are taken, and the module of each that is exported.

Shapes: ``B`` texts, ``T`` tokens, ``H`` hidden size, ``V`` vocabulary.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from ts4s_core.errors import SourceError, UnsupportedModelError, listed
from ts4s_core.task_kinds.kind import BaseTask

#: Encoders, and whether their class would bring a pooler of its own (the head that ts4s puts on has one).
ENCODERS = {"bert": True, "roberta": True, "xlm-roberta": True, "camembert": True, "distilbert": False, "electra": False}
CAUSAL = ("gpt2", "llama", "mistral", "qwen2")
REFUSED = {
    "deberta-v2": "its disentangled attention computes bucket positions in floating point and uses them as indices, "
    "which the ONNX graph does not carry over",
    "deberta": "its disentangled attention computes bucket positions in floating point and uses them as indices, "
    "which the ONNX graph does not carry over",
}

#: Where and with what a configuration was written: not part of the model.
_LOCAL_KEYS = ("_name_or_path", "name_or_path", "transformers_version")


def family_task(model_type: str, *, wanted: BaseTask, source: str) -> BaseTask:
    """The task that a family is exported for, if it is the one that is wanted.

    Args:
        model_type: ``model_type`` of the Hugging Face configuration.
        wanted: ``encoder`` for a classification head, ``causal-lm`` for a language model.
        source: the source as the user named it, for the message.

    Raises:
        UnsupportedModelError: if the family is not taken, or not for that task.
    """
    if model_type in REFUSED:
        raise UnsupportedModelError(
            f"Model family {model_type} of {source} is not supported yet, because {REFUSED[model_type]}. "
            f"Use one of {listed(ENCODERS, 20)}"
        )
    taken = list(ENCODERS) if wanted == "encoder" else list(CAUSAL)
    if model_type in taken:
        return wanted
    if wanted == "encoder" and model_type in CAUSAL:
        raise UnsupportedModelError(
            f"Model family {model_type} of {source} is a language model: expected an encoder ({listed(taken, 20)}). "
            "Use model.task language-model, or another model.source"
        )
    if wanted == "causal-lm" and model_type in ENCODERS:
        raise UnsupportedModelError(
            f"Model family {model_type} of {source} is an encoder and cannot be trained as a language model: "
            f"expected one of {listed(taken, 20)}. Use model.task classification, or another model.source"
        )
    raise UnsupportedModelError(
        f"Model family {model_type!r} of {source} is not taken: expected one of {listed(taken, 20)}. Use another model.source, "
        "or export the model to ONNX yourself and give the .onnx file"
    )


def config_object(config: dict[str, Any], *, source: str) -> Any:
    """The Hugging Face configuration of a dictionary.

    Raises:
        SourceError: if its family is unknown or a value is refused.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    family = config.get("model_type")
    if not isinstance(family, str) or family not in CONFIG_MAPPING:
        raise SourceError(
            f"model.source {source}: config.json has model_type {family!r}: "
            'expected a model family that transformers knows, as in "bert"'
        )
    try:
        return CONFIG_MAPPING[family].from_dict(dict(config))
    except Exception as exc:  # dataclass validation errors of several libraries
        raise SourceError(f"model.source {source}: config.json is refused: {str(exc)[:400]}") from exc


def checked_module(record: dict[str, Any], *, task: BaseTask, source: str) -> tuple[dict[str, Any], nn.Module]:
    """A configuration with its defaults, and its module without memory for its weights: a wrong configuration shows here.

    Raises:
        SourceError, UnsupportedModelError: saying what is wrong with it.
    """
    described = config_object(record, source=source)
    family_task(described.model_type, wanted=task, source=source)
    if task == "encoder" and getattr(described, "is_decoder", False):
        raise UnsupportedModelError(
            f"model.source {source}: config.json says is_decoder true, so that each token sees those before it alone: "
            'expected an encoder. Set "is_decoder": false in it if the model was trained as one'
        )
    values: dict[str, Any] = json.loads(described.to_json_string(use_diff=False))  # defaults too: the pad token is one
    config = {name: value for name, value in sorted(values.items()) if name not in _LOCAL_KEYS}
    try:
        with torch.device("meta"):
            return config, build_module(config_object(config, source=source), task)
    except (ValueError, TypeError, RuntimeError, AttributeError, KeyError, ZeroDivisionError) as exc:
        raise SourceError(f"model.source {source}: config.json describes no model that can be built: {str(exc)[:300]}") from exc


def build_module(config: Any, task: BaseTask) -> nn.Module:
    """A Hugging Face module of the configuration, with the weights that PyTorch's generator happens to draw, in eval mode.

    Raises:
        UnsupportedModelError: if the family is not taken.
    """
    import transformers

    prepare_config(config)
    encoders: Any = transformers.AutoModel
    language_models: Any = transformers.AutoModelForCausalLM
    if task == "causal-lm":
        module: nn.Module = language_models.from_config(config, dtype=torch.float32)
    elif ENCODERS.get(config.model_type):
        module = encoders.from_config(config, dtype=torch.float32, add_pooling_layer=False)
    else:
        module = encoders.from_config(config, dtype=torch.float32)
    return module.eval()


def prepare_config(config: Any) -> None:
    """Set what export needs: SDPA, no cache, no training-time extras."""
    config._attn_implementation = "sdpa"
    config.use_cache = False
    config.output_hidden_states = False


class ExportWrapper(nn.Module):
    """A family's module behind one signature: ``(input_ids, attention_mask)`` in, one tensor out.

    The mask is expanded to four dimensions here, which all families take as it is: a handful of nodes instead of the
    index arithmetic that the library's general mask code leaves in a graph.
    """

    def __init__(self, module: nn.Module, task: BaseTask) -> None:
        super().__init__()
        self.module = module
        self.task = task
        # torch.onnx.export restores the wrapper's own mode, which would put the module back into training.
        self.eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """``(B, T)`` int64 twice to ``(B, T, H)`` hidden states or ``(B, T, V)`` logits, float32."""
        attended = attention_mask.to(torch.bool)[:, None, None, :]
        length = input_ids.shape[1]
        if self.task == "encoder":
            mask = attended.expand(-1, 1, length, -1)
            hidden: torch.Tensor = self.module(input_ids=input_ids, attention_mask=mask).last_hidden_state
            return hidden
        position = torch.arange(length, device=input_ids.device)
        mask = attended & (position[None, None, None, :] <= position[None, None, :, None])
        # Positions for every text, not once for all: ONNX Runtime's RotaryEmbedding does not broadcast over the batch.
        positions = position[None, :].expand(input_ids.shape[0], -1)
        logits: torch.Tensor = self.module(
            input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=False
        ).logits
        return logits
