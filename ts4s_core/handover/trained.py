"""The trained model that is handed over, and the batches that every form of it is compared on.

Shapes: ``B`` texts, ``T`` tokens, ``C`` classes, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ts4s_core.artifacts.versions.manifest import Manifest
from ts4s_core.errors import ParityError
from ts4s_core.models.model_folder import ModelFolder

Floats = npt.NDArray[np.float32]
#: ``(B, T)`` int64 twice to logits.
Forward = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Floats]
#: Largest difference of a logit, as a share of ``max(1, largest logit)``.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Trained(ModelFolder):
    """A ``trained`` artifact on this host.

    Attributes:
        manifest: its manifest.
    """

    manifest: Manifest

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest text that it takes, as far as its configuration says; a file made elsewhere may take fewer."""
        from ts4s_core.onnx.importing.sizes import longest_text
        from ts4s_core.onnx.sources.resolve import max_positions

        return longest_text(self.merged, max_positions(self.config)) if self.config else self.spec.max_length

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
                logits = self.merged(*batch.arguments).numpy()
            found.append((*batch.arrays, logits))
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
        from ts4s_core.onnx.importing.parity import largest_difference

        differences = [0.0]
        for ids, mask, expected in self.references:
            found = forward(ids, mask)
            if expected.ndim == 3:  # a language model's logits at padding mean nothing
                found, expected = found[mask == 1], expected[mask == 1]
            differences.append(largest_difference(found, expected))
        return float(np.max(differences))  # not a number if one of them is
