"""An engine of one rank that trains alone."""

from __future__ import annotations

from typing import Any

from ts4s_core.training.step.engine import Engine


class LocalEngine(Engine):
    """An engine of one rank's parts alone, which have their own numbers among all."""

    def __init__(self, *arguments: Any, first_part: int, **named: Any) -> None:
        self._first_part = first_part
        super().__init__(*arguments, **named)

    def own_parts(self) -> range:
        """See :meth:`Engine.own_parts`."""
        return range(self._first_part, self._first_part + self.parts_per_rank)
