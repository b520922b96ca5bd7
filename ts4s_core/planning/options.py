"""The options of a plan, and the sizes in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import ByteSize, TypeAdapter, ValidationError

from ts4s_core.errors import SettingsError

_NETWORK = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGkmg])(bit|b|B)(?:/s|ps)?$")
_MEMORY_UNIT = re.compile(r"(?<=[KMGT])i?B?$", re.IGNORECASE)
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class PlanOptions:
    """The options of a plan.

    Attributes:
        workers: the largest number in the table; 0: that of the settings, or as many as there are parts.
        per_host: workers of a host; 0: what this machine has cores for.
        network: speed of a host's network, as in ``1Gbit`` or ``500MB``.
        memory: of a host, as in ``16GB``; empty: this machine's.
        rows: assumed where there is no dataset.
        tokens: typical length of a row, assumed likewise.
        python_path: folders that the measuring processes import from too.
    """

    workers: int = 0
    per_host: int = 0
    network: str = "1Gbit"
    memory: str = ""
    rows: int = 3_000
    tokens: int = 60
    python_path: Sequence[str] = field(default_factory=list)


def network_speed(text: str) -> float:
    """Bytes a second of ``1Gbit`` or ``120MB``.

    Raises:
        SettingsError: if it is neither.
    """
    found = _NETWORK.match(text.strip())
    if found is None or float(found.group(1)) <= 0:
        raise SettingsError(
            f"--network {text!r} is not valid: expected a number with Kbit, Mbit, Gbit, KB, MB or GB, as in 10Gbit"
        )
    bits = found.group(3) != "B"
    return float(float(found.group(1)) * 1e3 ** _POWERS[found.group(2).upper()] / (8 if bits else 1))


def memory_size(text: str) -> int:
    """Bytes of ``16GB``.

    Raises:
        SettingsError: if it is not a size.
    """
    # Memory is sold, and given to Spark, in powers of 1024 whatever its unit is called.
    in_binary, units = _MEMORY_UNIT.subn("iB", text.strip())
    try:
        size = TypeAdapter(ByteSize).validate_python(in_binary)
    except ValidationError:
        size = ByteSize(0)
    if not units or size <= 0:
        raise SettingsError(f"--memory {text!r} is not valid: expected a number with MB, GB or TB, as in 16GB")
    return int(size)
