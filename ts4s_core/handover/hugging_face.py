"""A folder that ``from_pretrained`` of Hugging Face's library loads.

The head that ts4s trains is RoBERTa's: dense, tanh, projection, on the first token's state. BERT's pooler and classifier are
the same under other names. The heads of DistilBERT (ReLU) and ELECTRA (GELU) are not; but their encoders are BERT's, layer by
layer, so such a model becomes a BERT of equal function. Whatever was mapped is loaded from the folder again and compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ts4s_core.errors import UnsupportedModelError, listed
from ts4s_core.handover.trained import Floats, Trained
from ts4s_core.models.heads import HEAD
from ts4s_core.onnx.graph.graph import Array

ROBERTA_HEADS = ("roberta", "xlm-roberta", "camembert")
_BERT_HEAD = {"dense": "bert.pooler.dense", "out_proj": "classifier"}
_DISTILBERT = (
    (r"^embeddings\.", "bert.embeddings."),
    (r"^transformer\.layer\.(\d+)\.", r"bert.encoder.layer.\1."),
    (r"\.attention\.q_lin\.", ".attention.self.query."),
    (r"\.attention\.k_lin\.", ".attention.self.key."),
    (r"\.attention\.v_lin\.", ".attention.self.value."),
    (r"\.attention\.out_lin\.", ".attention.output.dense."),
    (r"\.sa_layer_norm\.", ".attention.output.LayerNorm."),
    (r"\.ffn\.lin1\.", ".intermediate.dense."),
    (r"\.ffn\.lin2\.", ".output.dense."),
    (r"\.output_layer_norm\.", ".output.LayerNorm."),
)
_DISTILBERT_CONFIG = {
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
_SAME_IN_BERT = ("vocab_size", "max_position_embeddings", "pad_token_id")


def write_hugging_face(trained: Trained, folder: Path) -> dict[str, Any]:
    """Write ``config.json`` and ``model.safetensors``, load them again as a user does, and compare.

    Raises:
        UnsupportedModelError: there is no class of the library with this encoder and this head.
        ParityError: what the library loads computes something else.
    """
    import transformers

    record = _config(trained)
    model = _module(trained, record)
    with _quiet():
        model.save_pretrained(folder)
        loaded = getattr(transformers, trained.spec.kind.hugging_face_class).from_pretrained(folder, local_files_only=True).eval()
    difference = trained.check(_forward(loaded), form="hf")
    return {"class": type(loaded).__name__, "model_type": record["model_type"], "difference": difference}


def _config(trained: Trained) -> dict[str, Any]:
    """The configuration of the class that has this encoder and this head."""
    config, spec = trained.config, trained.spec
    family = config.get("model_type")
    if family is None:
        raise UnsupportedModelError(
            f"Export as hf of {trained.manifest.ref}: expected a base of a Hugging Face family, got an ONNX file made elsewhere. "
            "Use --format onnx or torch"
        )
    if spec.kind.head is None:
        return dict(config)
    if family == "distilbert":
        config = _distilbert_as_bert(config)
    elif family == "electra":
        config = _electra_as_bert(trained)
    elif family not in (*ROBERTA_HEADS, "bert"):
        raise UnsupportedModelError(
            f"Export as hf of {trained.manifest.ref}: expected a family with this head (bert, roberta, ...), got {family}. "
            "Use --format onnx or torch"
        )
    labels = dict(enumerate(spec.labels))
    dropped = ("architectures", "id2label", "label2id", "num_labels")
    return {
        **{name: value for name, value in config.items() if name not in dropped},
        "id2label": labels,
        "label2id": {label: number for number, label in labels.items()},
        "problem_type": spec.kind.problem_type,
        "classifier_dropout": spec.dropout,
    }


def _distilbert_as_bert(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: config[name] for name in _SAME_IN_BERT if name in config}
    renamed = {new: config[old] for old, new in _DISTILBERT_CONFIG.items() if old in config}
    return {"model_type": "bert", "type_vocab_size": 1, "layer_norm_eps": 1e-12, **kept, **renamed}


def _electra_as_bert(trained: Trained) -> dict[str, Any]:
    config = trained.config
    if config.get("embedding_size", config.get("hidden_size")) != config.get("hidden_size"):
        raise UnsupportedModelError(
            f"Export as hf of {trained.manifest.ref}: ELECTRA's own head is another one (GELU in place of tanh), and as a BERT "
            f"it would need embeddings as wide as the layers: expected embedding_size {config.get('hidden_size')}, got "
            f"{config.get('embedding_size')}. Use --format onnx or torch"
        )
    return {**config, "model_type": "bert"}


def _module(trained: Trained, record: Mapping[str, Any]) -> Any:
    """The library's module with the trained weights in it."""
    import torch
    import transformers

    from ts4s_core.onnx.sources.families import config_object, prepare_config

    config = config_object(dict(record), source=str(trained.manifest.ref))
    prepare_config(config)
    config.use_cache = True
    auto = getattr(transformers, trained.spec.kind.hugging_face_class)
    with _quiet():
        module = auto.from_config(config, dtype=torch.float32).eval()
    tensors = _renamed(trained, family=str(record["model_type"]), prefix=module.base_model_prefix)
    held = module.state_dict()
    unknown = sorted(name for name in tensors if name not in held or tuple(held[name].shape) != tensors[name].shape)
    if unknown:
        raise UnsupportedModelError(
            f"Export as hf of {trained.manifest.ref}: expected weights of {type(module).__name__}, got others: "
            f"{listed(unknown)}. Use --format onnx or torch"
        )
    with torch.no_grad():
        for name, parameter in module.named_parameters(remove_duplicate=False):
            # What the graph did not use (token types that are always 0) is zero; the comparison finds what matters.
            array = tensors.get(name)
            if array is not None:
                parameter.copy_(torch.from_numpy(np.array(array)))
            elif not _tied_to(module, name, tensors):
                parameter.zero_()
    return module


def _tied_to(module: Any, name: str, tensors: Mapping[str, Array]) -> bool:
    """Whether a parameter without a tensor of its own is another name of one that has it."""
    same = module.get_parameter(name)
    return any(other in tensors for other, value in module.named_parameters(remove_duplicate=False) if value is same)


def _renamed(trained: Trained, *, family: str, prefix: str) -> dict[str, Array]:
    if trained.spec.kind.head is None:
        return dict(trained.tensors)
    source = trained.config["model_type"]
    names: dict[str, Array] = {}
    for name, array in trained.tensors.items():
        if name.startswith(f"{HEAD}."):
            _, layer, leaf = name.split(".")
            names[f"{_BERT_HEAD[layer]}.{leaf}" if family == "bert" else name] = array
        elif source == "distilbert":
            for pattern, replacement in _DISTILBERT:
                name = re.sub(pattern, replacement, name)
            names[name] = array
        else:
            names[f"{prefix}.{name}"] = array
    return names


def _forward(model: Any) -> Any:
    import torch

    def run(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Floats:
        with torch.inference_mode():
            logits: Floats = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
        return logits

    return run


class _quiet:  # noqa: N801  used as a context manager, like contextlib's own
    """No progress bars and no remarks of the library on standard error."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        library: Any = logging
        self._level, self._bars = library.get_verbosity(), library.is_progress_bar_enabled()
        library.set_verbosity_error()
        library.disable_progress_bar()

    def __exit__(self, *_error: object) -> None:
        from transformers.utils import logging

        library: Any = logging
        library.set_verbosity(self._level)
        if self._bars:
            library.enable_progress_bar()
