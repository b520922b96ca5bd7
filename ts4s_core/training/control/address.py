"""Where the control server of a training is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class ControlAddress:
    """Where workers find the control server, and how each end knows the other.

    Attributes:
        host: a name or an address.
        secret: lets a worker in.
        fingerprint: SHA-256 of the server's certificate; no certificate has the empty one.
    """

    host: str
    port: int
    secret: str = field(repr=False)
    fingerprint: str = ""

    def to_wire(self) -> str:
        """The address as JSON; it holds the secret."""
        return json.dumps(asdict(self))

    @classmethod
    def from_wire(cls, text: str) -> ControlAddress:
        """The address that :meth:`to_wire` wrote."""
        return cls(**json.loads(text))
