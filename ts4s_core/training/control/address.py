"""Where the control server of a training is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class ControlAddress:
    """Where workers find the driver's control server, and the secret that lets them in."""

    host: str
    port: int
    secret: str = field(repr=False)

    def to_wire(self) -> str:
        """The address as JSON; it holds the secret."""
        return json.dumps(asdict(self))

    @classmethod
    def from_wire(cls, text: str) -> ControlAddress:
        """The address that :meth:`to_wire` wrote."""
        return cls(**json.loads(text))
