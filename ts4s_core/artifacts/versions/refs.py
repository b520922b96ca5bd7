"""What an artifact is called, and which names are taken.

A name becomes part of a path or of an object key, and it may come from a hub id, a manifest that somebody else wrote or
the command line: so every name is checked here, once, before it is used.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ts4s_core.errors import InputError, listed
from ts4s_core.settings.groups import NAME_PATTERN

KINDS = ("onnx", "dataset", "model", "trained", "checkpoint", "report", "text", "predictions")
MAX_NAME_CHARS = 128
MAX_PATH_CHARS = 400
#: File systems take names of 255 bytes, and programs that copy a store write a file under a longer name first.
MAX_SEGMENT_BYTES = 200
MANIFEST = "manifest.json"
#: Files and folders whose name begins so are being written; no reader looks at them and ``gc`` removes old ones.
TEMPORARY = ".ts4s-tmp-"

#: All that is kept at rest: nothing that runs code when it is loaded.
ENDINGS = (
    ".safetensors",
    ".onnx",
    ".onnx.data",
    ".json",
    ".jsonl",
    ".csv",
    ".parquet",
    ".html",
    ".png",
    ".txt",
    ".model",
    ".jinja",
)

_NAME = re.compile(NAME_PATTERN.rstrip("$") + r"\Z")
_VERSION = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}\Z")
# No control characters, and no half characters, which JSON's escapes can make and no filesystem takes.
_SEGMENT = re.compile(r"[^\x00-\x1f\x7f/\\\ud800-\udfff]+\Z")


@dataclass(frozen=True, order=True)
class ArtifactRef:
    """One version of one artifact; ``str(ref)`` is ``kind/name/version``, which is also its folder in the store."""

    kind: str
    name: str
    version: str

    def __post_init__(self) -> None:
        check_kind(self.kind)
        check_name(self.name)
        if not _VERSION.match(self.version):
            raise InputError(
                f"Version {self.version[:80]!r} of {self.kind}/{self.name} is not valid: expected <UTC time>-<8 hex digits>, "
                "as in 20261121T041500.123456Z-1a2b3c4d"
            )

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}/{self.version}"

    @classmethod
    def parse(cls, text: str) -> ArtifactRef:
        """The reference that ``str(ref)`` wrote.

        Raises:
            InputError: if the text is no ``kind/name/version``.
        """
        segments = text.split("/")
        if len(segments) != 3:
            raise InputError(
                f"Artifact reference {text[:200]!r} cannot be read: expected KIND/NAME/VERSION, got {len(segments)} segment(s)"
            )
        return cls(*segments)


def check_kind(kind: str) -> str:
    """The kind itself.

    Raises:
        InputError: if there is no such kind.
    """
    if kind not in KINDS:
        raise InputError(f"Artifact kind {kind[:80]!r} does not exist: expected one of {listed(KINDS)}")
    return kind


def check_name(name: str) -> str:
    """The name itself, if it is safe as one segment of a path.

    Raises:
        InputError: on an empty or over-long name, ``..``, separators, control characters.
    """
    if len(name) > MAX_NAME_CHARS:
        raise InputError(f"Name {name[:40]!r}... is too long: expected at most {MAX_NAME_CHARS} characters, got {len(name)}")
    if not _NAME.match(name):
        raise InputError(
            f"Name {name!r} is not valid: expected letters, digits, '-', '_' and single dots inside, first a letter or digit"
        )
    return name


def check_path(path: str) -> str:
    """The path itself, if it stays inside its version's folder.

    Raises:
        InputError: on an absolute or over-long path, ``.``, ``..``, backslashes, control characters, a temporary name.
    """
    if len(path) > MAX_PATH_CHARS:
        raise InputError(f"File path {path[:40]!r}... is too long: expected at most {MAX_PATH_CHARS} characters, got {len(path)}")
    for segment in path.split("/"):
        if len(segment.encode(errors="replace")) > MAX_SEGMENT_BYTES:
            raise InputError(f"File path {path[:40]!r}... is refused: a name in it has more than {MAX_SEGMENT_BYTES} bytes")
        if segment in ("", ".", "..") or not _SEGMENT.match(segment) or segment.startswith(TEMPORARY):
            raise InputError(
                f"File path {path!r} is refused: expected a relative path inside the artifact, as in train/00000.parquet"
            )
    return path


def check_content(path: str) -> str:
    """The path itself, if files of its kind are kept at rest.

    Raises:
        InputError: on any other ending (a pickle, a ``.pt``, a ``.bin``), and on the manifest's own name.
    """
    if path == MANIFEST:
        raise InputError(f"File path {path!r} is refused: the store writes the manifest itself")
    if not path.endswith(ENDINGS):
        raise InputError(f"File {path!r} is refused: expected one of {' '.join(ENDINGS)}, nothing else is kept at rest")
    return path


def slug(source: str) -> str:
    """A name for anything: a hub id, a path, a file. Different sources get different names.

    ``FacebookAI/roberta-base`` becomes ``FacebookAI--roberta-base``; where characters are lost, eight hex digits of the
    source's hash are added.
    """
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", source.strip("/").replace("/", "--"))
    clean = re.sub(r"\.{2,}", ".", clean).strip("-_.")[: MAX_NAME_CHARS - 9].rstrip(".")
    if clean.replace("--", "/") == source and _NAME.match(clean):
        return clean
    digest = hashlib.sha256(source.encode()).hexdigest()[:8]
    return f"{clean}-{digest}" if clean else f"source-{digest}"
