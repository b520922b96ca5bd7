"""A process that contends for a model: ``lease_worker.py WORK`` with a JSON object of options on the first line of its input.

``run`` trains (writes a version), seals and promotes it under the leases that a run holds; ``hold`` holds and says at the end
whether it still does; ``try`` is a scheduled run. After ``begun`` it waits for a second line. What it says is one word a line,
an error is ``failed TYPE: MESSAGE`` and exit 1.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from ts4s_core.artifacts.leases.claims import BEAT, CHOOSING, CLAIM
from ts4s_core.artifacts.leases.lease import Lease, Limits
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.unsealed import discard_unsealed
from ts4s_core.errors import Ts4sError
from ts4s_core.settings import StorageSettings


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def run(store: ArtifactStore, mark: str) -> None:
    """What a run does under its leases, the training left out."""
    with Lease.hold(store, "demo", doing=mark), Lease.hold(store, "_train-demo"):
        for kind in ("checkpoint", "trained"):
            discard_unsealed(store, kind, "demo")
        with store.begin("trained", "demo", mark.encode().hex().ljust(64, "0"), settings={}, upstream={}) as writer:
            writer.add_bytes("model.safetensors", mark.encode())
            say("begun")
            sys.stdin.readline()
            writer.add_json("metrics.json", {"mark": mark})
            writer.seal()
        say("sealed", writer.ref)
        say("promoted", Registry(store).decide("demo", to=writer.ref.version, why=mark, who="test").number)


def hold(store: ArtifactStore, _mark: str) -> None:
    """Hold until a line comes."""
    with Lease.hold(store, "demo") as lease:
        say("begun")
        sys.stdin.readline()
        lease.check()
        say("still mine")


def attempt(store: ArtifactStore, name: str) -> None:
    """What a scheduled run does."""
    with Lease.hold(store, name, wait=False):
        say("admitted")


def stop_at(store: ArtifactStore, ending: str) -> None:
    """Let this process stop itself once, right before it creates an object: after every look, before the write.

    ``.json`` is the claim on the model, which comes after the word "choosing".
    """
    files: Any = store.storage._files
    left = [True]

    def stopping(real: Any, ending: str) -> Any:
        def act(path: str, *arguments: Any, **options: Any) -> Any:
            if left and path.endswith(ending) and not path.endswith((CHOOSING, BEAT)):
                left.clear()
                say("stopping")
                os.kill(os.getpid(), signal.SIGSTOP)
            return real(path, *arguments, **options)

        return act

    if ending == CLAIM:
        files.write = stopping(files.write, ending)
    elif store.storage.folder is not None:
        files.create = stopping(files.create, ending)
        if ending == "/manifest.json":
            files.publish = stopping(files.publish, "")
    elif files.conditional_writes:
        files.create = stopping(files.create, ending)
    else:
        files.write = stopping(files.write, ending)


def main() -> int:
    options = json.loads(sys.stdin.readline())
    store = ArtifactStore.open(StorageSettings.model_validate(options["storage"]))
    store.storage.limits = Limits(**options["limits"])
    if options.get("stop_at"):
        stop_at(store, options["stop_at"])
    try:
        if sys.argv[1] == "try":
            attempt(store, options.get("name", "demo"))
        else:
            {"run": run, "hold": hold}[sys.argv[1]](store, options.get("mark", "A"))
    except Ts4sError as exc:
        say("failed", f"{type(exc).__name__}: {exc}")
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
