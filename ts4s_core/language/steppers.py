"""A trained language model, token by token: what was computed of the tokens before is kept.

    transformer with a Hugging Face configuration   its own class, with the key-value cache; the weights go over by name
    recurrent network                               the state
    window network                                  the last tokens alone
    any other graph (an .onnx file made elsewhere)  computed anew at each token

Shapes: ``T`` tokens, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ts4s_core.errors import IntegrityError, listed
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.models.network_spec import NetworkSpec
from ts4s_core.models.small_networks import NetworkModel, RecurrentNetwork
from ts4s_core.models.trainable import TrainableModel

if TYPE_CHECKING:
    from torch import nn

Logits = NDArray[np.float32]


class Stepper(Protocol):
    """Reads tokens, and gives the logits of the next one."""

    def read(self, ids: Sequence[int], *, reset: bool) -> Logits:
        """Read tokens that follow those read before, or with ``reset`` begin a new text.
        Returns:
            the logits behind the last of them, (V,).
        """
        ...


def stepper_of(opened: ModelFolder) -> tuple[Stepper, TrainableModel]:
    """The stepper of a ``trained`` or ``model`` artifact, and its model, in evaluation mode.

    Raises:
        IntegrityError: its files are damaged or do not fit together.
    """
    model = opened.merged
    if isinstance(model, NetworkModel):
        network = model.network
        return RecurrentStepper(network) if isinstance(network, RecurrentNetwork) else WindowStepper(model), model
    if not opened.config or model.spec.fixed_shape is not None:
        return GraphStepper(model), model
    return CachedStepper(_library_module(model, opened.config)), model


class CachedStepper:
    """A transformers module with its key-value cache."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._cache: Any = None

    @torch.inference_mode()
    def read(self, ids: Sequence[int], *, reset: bool) -> Logits:
        """See :class:`Stepper`."""
        from transformers import DynamicCache

        if reset:
            self._cache = DynamicCache()
        tokens = torch.tensor([list(ids)])
        # Nothing is padding, though a text begins with what may be the padding token: the library would warn of it.
        there = torch.ones(1, self._cache.get_seq_length() + len(ids), dtype=torch.int64)
        output = self._module(
            input_ids=tokens, attention_mask=there, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )
        logits: Logits = output.logits[0, -1].numpy()
        return logits


class RecurrentStepper:
    """A recurrent network with its state."""

    def __init__(self, network: RecurrentNetwork) -> None:
        self._network = network
        self._state: list[Any] | None = None
        self._read = 0

    @torch.inference_mode()
    def read(self, ids: Sequence[int], *, reset: bool) -> Logits:
        """See :class:`Stepper`."""
        if reset:
            self._state, self._read = None, 0
        logits, self._state = self._network.advance(torch.tensor([list(ids)]), self._state, first=self._read)
        self._read += len(ids)
        found: Logits = logits[0, -1].numpy()
        return found


class GraphStepper:
    """Any model, computed anew over all tokens."""

    def __init__(self, model: TrainableModel) -> None:
        self._model = model
        self._ids: list[int] = []

    @torch.inference_mode()
    def read(self, ids: Sequence[int], *, reset: bool) -> Logits:
        """See :class:`Stepper`."""
        self._ids = list(ids) if reset else [*self._ids, *ids]
        tokens = torch.tensor([self._seen()])
        logits: Logits = self._model(tokens, torch.ones_like(tokens))[0, -1].numpy()
        return logits

    def _seen(self) -> list[int]:
        return self._ids


class WindowStepper(GraphStepper):
    """A window network: only the tokens that it looks at are computed."""

    def __init__(self, model: NetworkModel) -> None:
        super().__init__(model)
        assert model.spec.network is not None
        self._size = NetworkSpec.from_json(model.spec.network).positions

    def _seen(self) -> list[int]:
        self._ids = self._ids[-self._size :]
        return self._ids


def _library_module(model: TrainableModel, config: dict[str, Any]) -> nn.Module:
    """The Hugging Face module of a configuration with the weights of an imported one."""
    from ts4s_core.onnx.sources.families import build_module, config_object

    with torch.random.fork_rng(devices=[]):
        module = build_module(config_object(config, source="the model"), "causal-lm")
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tensors |= {alias: tensors[name] for alias, name in model.spec.tied.items() if name in tensors}
    wanted = dict(module.named_parameters(remove_duplicate=False))
    odd = sorted(name for name in wanted.keys() ^ tensors.keys())
    odd += sorted(name for name in wanted.keys() & tensors.keys() if wanted[name].shape != tensors[name].shape)
    if odd:
        raise IntegrityError(
            f"Weights of the model do not fit its config.json: expected the same names and shapes in both, got {listed(odd)} "
            "in one alone. Train the model again"
        )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(tensors[name])
    return module.eval()
