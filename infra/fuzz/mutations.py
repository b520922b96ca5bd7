"""Changes that keep a file's outer form, so that more of them get past the first check than random bytes would."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import atheris

Mutator = Callable[[bytes, int, int], bytes]

ODD_NUMBERS = [0, 1, -1, 2, 3, 7, 255, 2**31 - 1, -(2**31), 2**32, 2**40, 2**63 - 1, -(2**63), 2**64, 10**30, 0.5, -0.0, 1e308]
ODD_TEXTS = [
    "",
    " ",
    "a",
    "\x00",
    "\ud800",
    "é",
    "\U0001f600",
    "../x",
    "/etc/passwd",
    "a" * 300,
    "NaN",
    "1",
    "-1",
    "F32",
    "BF16",
    "I64",
    "BOOL",
    "__metadata__",
    "train",
    "promote",
    "refuse",
    "20261121T041500.123456Z-1a2b3c4d",
    "ab" * 32,
]


def by_bytes(data: bytes, max_size: int, _seed: int) -> bytes:
    """libFuzzer's own changes."""
    return bytes(atheris.Mutate(data, max_size))


def odd_value(chance: random.Random) -> Any:
    """A JSON value that a reader may not expect; NaN and the infinities among them, which Python's reader takes."""
    kind = chance.randrange(10)
    if kind < 4:
        return chance.choice(ODD_NUMBERS)
    if kind < 7:
        return chance.choice(ODD_TEXTS)
    many = json.loads("[" * 50 + "]" * 50)
    return chance.choice([None, True, False, [], {}, [1], {"a": 1}, [[]], {"": None}, many, float("nan"), float("inf")])


def changed_json(value: Any, chance: random.Random) -> Any:
    """The value with a few places changed."""
    for _ in range(chance.choice([1, 1, 1, 2, 3, 5])):
        value = _changed_once(value, chance)
    return value


def _changed_once(value: Any, chance: random.Random) -> Any:
    places = list(_places(value))
    if not places:
        return odd_value(chance)
    holder, key = chance.choice(places)
    action = chance.randrange(8)
    if action == 0:
        del holder[key]
    elif action == 1 and isinstance(holder, list):
        holder.insert(key, holder[chance.randrange(len(holder))])
    elif action == 1:
        holder[chance.choice(ODD_TEXTS)] = holder[key]
    elif action == 2:
        other, at = chance.choice(places)
        holder[key] = json.loads(json.dumps(other.get(at) if isinstance(other, dict) else [*other, None][at]))
    elif action == 3 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] += chance.choice([-1, 1, 8, -8, 0.5])
    elif action == 4 and isinstance(holder[key], str):
        at = chance.randrange(len(holder[key]) + 1)
        holder[key] = holder[key][:at] + chance.choice(ODD_TEXTS) + holder[key][at:]
    else:
        holder[key] = odd_value(chance)
    return value


def _places(value: Any) -> Any:
    if isinstance(value, dict):
        for key in list(value):
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield value, at
            yield from _places(inner)


def by_json(data: bytes, max_size: int, seed: int) -> bytes:
    """A first byte that says what the rest is, and one JSON value."""
    chance = random.Random(seed)
    try:
        value = json.loads(data[1:])
    except (ValueError, RecursionError):
        return by_bytes(data, max_size, seed)
    if chance.random() < 0.15:
        return by_bytes(data, max_size, seed)
    first = bytes([chance.randrange(256)]) if chance.random() < 0.1 else data[:1]
    return (first + json.dumps(changed_json(value, chance)).encode())[:max_size]


def by_safetensors(data: bytes, max_size: int, seed: int) -> bytes:
    """The header as JSON, its length put right again; the bytes behind it now and then cut or longer."""
    chance = random.Random(seed)
    try:
        size = int.from_bytes(data[:8], "little")
        value = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        return by_bytes(data, max_size, seed)
    if chance.random() < 0.2:
        return by_bytes(data, max_size, seed)
    header, body = json.dumps(changed_json(value, chance)).encode(), data[8 + size :]
    if chance.random() < 0.2:
        body = body[: chance.randrange(len(body) + 1)] + bytes(chance.choice([0, 0, 1, 4, 64]))
    length = len(header) if chance.random() < 0.95 else chance.choice([0, 1, len(header) - 1, 2**31, 2**63])
    return (struct.pack("<Q", length) + header + body)[:max_size]


def by_parquet(data: bytes, max_size: int, seed: int) -> bytes:
    """Changes in the footer, whose length is put right again, or in the pages."""
    chance = random.Random(seed)
    size = int.from_bytes(data[-8:-4], "little")
    if data[-4:] != b"PAR1" or not 0 < size <= len(data) - 12 or chance.random() < 0.1:
        return by_bytes(data, max_size, seed)
    pages, footer = data[: -8 - size], data[-8 - size : -8]
    if chance.random() < 0.6:
        footer = _bytes_changed(footer, chance) if chance.random() < 0.7 else bytes(atheris.Mutate(footer, len(footer) + 32))
    else:
        pages = _bytes_changed(pages, chance)
    return (pages + footer + struct.pack("<I", len(footer)) + b"PAR1")[: max(max_size, 12)]


def _bytes_changed(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4])):
        if changed:
            at = chance.randrange(len(changed))
            changed[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, changed[at] ^ (1 << chance.randrange(8)), chance.randrange(256)])
    return bytes(changed)
