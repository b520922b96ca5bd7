"""The key of a step: what its result depends on, and nothing else.

Same key, same result: so a step whose key was done before is not done again. A path, a name, a time, the number of
workers and the Spark master never go into a key.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from typing import Any

from ts4s_core.artifacts.versions.reach import installed_sources

DISTRIBUTION = "ts4s"


def canonical_json(value: object) -> bytes:
    """One and the same text for equal values: sorted keys, no blanks, UTF-8.

    Raises:
        ValueError: on NaN or infinity, which JSON does not have.
        TypeError: on a value that is no JSON.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def step_key(kind: str, *, entries: Iterable[str], inputs: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """Hash of a step: the kind it makes, its inputs' content hashes, the settings that affect it, the code it reaches.

    Args:
        kind: kind of the artifact that the step makes.
        entries: where its code begins: modules or ``module:name``, see :mod:`ts4s_core.artifacts.versions.reach`.
        inputs: content hash of every input by role, e.g. ``{"dataset": manifest.content_sha256}``.
        settings: the settings that change the result, as JSON values.

    Returns:
        64 hex digits.
    """
    code = installed_sources().sha256(entries)
    record = {"kind": kind, "inputs": dict(inputs), "settings": dict(settings), "code": code}
    return hashlib.sha256(canonical_json(record)).hexdigest()


@functools.cache
def code_version() -> str:
    """What a manifest says of the code that made a version: the distribution's and a hash of all sources (zipped or not)."""
    try:
        version = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:  # an executor that has only the shipped zip
        version = "0"
    digest = hashlib.sha256()
    for path, source in sorted(_sources(resources.files("ts4s_core"), "")):
        digest.update(f"{path}\0{hashlib.sha256(source).hexdigest()}\n".encode())
    return f"{version}+{digest.hexdigest()[:16]}"


def _sources(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _sources(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".py"):
            yield prefix + entry.name, entry.read_bytes()
