"""The trained model that is handed over, and the batches that every form of it is compared on.

Shapes: ``B`` texts, ``T`` tokens, ``C`` classes, ``V`` vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ts4s_core.artifacts.versions.manifest import Manifest
from ts4s_core.errors import ParityError
from ts4s_core.models.spec import ModelSpec

if TYPE_CHECKING:
    from ts4s_core.models.trainable import TrainableModel
    from ts4s_core.onnx.graph.graph import Array

Floats = npt.NDArray[np.float32]
#: ``(B, T)`` int64 twice to logits.
Forward = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Floats]
#: Largest difference of a logit, as a share of ``max(1, largest logit)``.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Trained:
    """A ``trained`` artifact on this host.

    Attributes:
        folder: its verified files.
        manifest: its manifest.
    """

    folder: Path
    manifest: Manifest

    @cached_property
    def spec(self) -> ModelSpec:
        """What ``model.json`` says."""
        return ModelSpec.read(self.folder)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The Hugging Face configuration of the base; empty for an ONNX file made elsewhere."""
        path = self.folder / "config.json"
        return dict(json.loads(path.read_bytes())) if path.is_file() else {}

    @cached_property
    def model(self) -> TrainableModel:
        """The model in evaluation mode; what its adapters learnt is part of its weights."""
        from ts4s_core.models.build import build_model
        from ts4s_core.models.lora import merge_lora

        model = build_model(self.folder)
        merge_lora(model)
        model.eval()
        return model

    @cached_property
    def tensors(self) -> dict[str, Array]:
        """The weights by state-dict name, adapters merged, tied ones once."""
        from ts4s_core.models.graph_model import tensors_of

        return tensors_of(self.model)

    @property
    def longest(self) -> int:
        """Tokens of the longest text that it takes."""
        from ts4s_core.onnx.sources.resolve import max_positions

        return max_positions(self.config) if self.config else self.spec.max_length

    @cached_property
    def references(self) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]]:
        """Random batches of several shapes, and the model's logits on them."""
        import torch

        from ts4s_core.onnx.importing.parity import Ranges, batches

        spec = self.spec
        ranges = Ranges(vocab_size=spec.vocab_size, pad_id=spec.pad_id, max_length=self.longest, fixed=spec.fixed_shape)
        found = []
        for batch in batches(ranges):
            with torch.inference_mode():
                logits = self.model(*batch.arguments).numpy()
            found.append((batch.input_ids.numpy(), batch.attention_mask.numpy(), logits))
        return found

    def check(self, forward: Forward, *, form: str, tolerance: float = TOLERANCE) -> float:
        """Compare another form of the model with it.

        Returns:
            the largest difference, as a share of ``max(1, largest logit)``.

        Raises:
            ParityError: if it is beyond the tolerance.
        """
        worst = self.difference(forward)
        if not worst <= tolerance:
            raise ParityError(
                f"Export as {form} of {self.manifest.ref}: expected its logits within {tolerance:g}, got a difference of "
                f"{worst:.3g}. Nothing was written"
            )
        return worst

    def difference(self, forward: Forward) -> float:
        """The largest difference of a logit at a real token, as a share of ``max(1, largest logit)``."""
        differences = [0.0]
        for ids, mask, expected in self.references:
            found = forward(ids, mask)
            gap, size = np.abs(found - expected), np.abs(expected)
            if expected.ndim == 3:  # a language model's logits at padding mean nothing
                gap, size = gap[mask == 1], size[mask == 1]
            differences.append(float(gap.max() / max(1.0, float(size.max()))))
        return float(np.max(differences))  # not a number if one of them is
