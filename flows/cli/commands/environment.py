"""``ts4s environment pack``: this environment as an archive that travels to a cluster."""

from __future__ import annotations

from flows.cli.command import Invocation, Outcome
from flows.cli.output import in_bytes
from ts4s_core.spark.packed_environment import connector_note, pack


def pack_command(invocation: Invocation) -> Outcome:
    """Write the archive, and say how a run uses it."""
    options, display = invocation.options, invocation.display
    names = ("ts4s", *(getattr(options, "with") or ()))
    with display.stage("pack"):
        packed = pack(options.to, names, storage=invocation.settings.storage, progress=display.progress)
    note = connector_note(packed.to)
    values = {
        "to": packed.to,
        "bytes": packed.bytes,
        "sha256": packed.sha256,
        "libraries": dict(packed.libraries),
        "conf": list(packed.conf),
        "note": note,
    }
    flags = " ".join(f"--spark.conf {pair}" for pair in packed.conf)
    lines = [f"{packed.to}  {in_bytes(packed.bytes)}, {len(packed.libraries)} libraries", "", f"use it: {flags}"]
    return Outcome(values, text="\n".join([*lines, *([f"note: {note}"] if note else [])]))
