"""The JSON of one job for ``spark-submit program.py --job``: ``job.py prepare|train|evaluate [flags as of ts4s]``.

What a job reads is the newest artifact under the name, as on the command line. Nothing is written.
"""

from __future__ import annotations

import json
import sys

from flows.cli.options import parse, settings_of
from flows.cli.table import find_command
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import NotFoundError, SettingsError, Ts4sError
from ts4s_core.onnx.sources.resolve import resolve_source
from ts4s_core.settings import Settings

STEPS = ("prepare", "train", "evaluate")


def job_of(step: str, settings: Settings) -> dict[str, object]:
    """A job with the artifacts that it reads.

    Raises:
        SettingsError: if there is no such step.
        NotFoundError: if the step before it has not run.
    """
    if step not in STEPS:
        raise SettingsError(f"step {step!r} is not valid: expected one of {', '.join(STEPS)}")
    store = ArtifactStore.open(settings.storage)
    job: dict[str, object] = {"job": step, "settings": settings.plain()}
    if step == "prepare":
        source = resolve_source(settings.model, store)
        return job | {"onnx": str(source.ref or _newest(store, "onnx", source.slug))}
    if step == "train":
        return job | {kind: _newest(store, kind, settings.name) for kind in ("dataset", "model")}
    trained = _newest(store, "trained", settings.name)
    champion = Registry(store).alias(settings.name, "champion")
    job |= {"trained": trained, "dataset": store.manifest(ArtifactRef.parse(trained)).upstream["dataset"]}
    return job | ({"champion": f"trained/{settings.name}/{champion}"} if champion else {})


def _newest(store: ArtifactStore, kind: str, name: str) -> str:
    found = store.newest(kind, name)
    if found is None:
        raise NotFoundError(f"no {kind} artifact named {name} in {store.storage.uri}: run the step before this one first")
    return str(found)


def main(words: list[str]) -> int:
    """Print the job."""
    try:
        command, length = find_command(words)
        if command is None or words[0] not in STEPS:
            raise SettingsError(f"step {words[:1]} is not valid: expected one of {', '.join(STEPS)}")
        parsed = parse(command, words[length:])
        settings = settings_of(command, parsed)
        sys.stdout.write(json.dumps(job_of(words[0], settings)) + "\n")
    except Ts4sError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
