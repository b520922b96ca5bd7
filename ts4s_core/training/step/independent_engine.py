"""The engine of a rank that trains independently of its peers."""

from __future__ import annotations

from typing import Any

from ts4s_core.training.step.engine import Engine


class IndependentEngine(Engine):
    """Computes the parts of one rank alone; they keep their numbers among all parts of a global batch."""

    def __init__(self, *arguments: Any, first_part: int, **named: Any) -> None:
        self._first_part = first_part
        super().__init__(*arguments, **named)

    def own_parts(self) -> range:
        """See :meth:`Engine.own_parts`."""
        return range(self._first_part, self._first_part + self.parts_per_rank)
