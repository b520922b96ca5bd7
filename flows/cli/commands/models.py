"""``ts4s models ...``: what is in the store, who is champion, is everything sound."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flows.cli.command import Invocation, Outcome
from flows.cli.output import columns, in_bytes, shown, table
from ts4s_core.artifacts.leases.lease import Lease
from ts4s_core.artifacts.registry import CHAMPION, KIND, Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.collect import collect
from ts4s_core.artifacts.upkeep.verify import verify
from ts4s_core.artifacts.versions.refs import ArtifactRef, check_name
from ts4s_core.errors import NotFoundError
from ts4s_core.evaluation.facts import ReportFacts
from ts4s_core.shown_text import line
from ts4s_core.training.facts import TrainedFacts

_HEADS = ("name", "versions", "champion", "newest", "accuracy", "macro_f1", "loss")


def list_command(invocation: Invocation) -> Outcome:
    """Every model with its champion, its newest version and its metrics."""
    store = ArtifactStore.open(invocation.settings.storage)
    registry = Registry(store)
    models = [_summary(store, registry, name) for name in registry.names()]
    rows = [tuple(shown(model[head] if head in model else model["metrics"].get(head)) for head in _HEADS) for model in models]
    return Outcome({"models": models}, text=columns(_HEADS, rows) if rows else f"no models in {store.storage.uri}")


def show_command(invocation: Invocation) -> Outcome:
    """One version: aliases, metrics, hash of the weights, what it was made from."""
    store = ArtifactStore.open(invocation.settings.storage)
    ref = Registry(store).resolve(invocation.options.model)
    values = describe(store, ref)
    rows: list[tuple[str, ...]] = [
        (str(entry.number), entry.when[:19], entry.action, f"@{entry.alias}", shown(entry.to), entry.who, entry.why)
        for entry in Registry(store).entries(ref.name)
    ]
    lines = list(table(values))
    if rows:
        lines += ["", f"history of {ref.name}", columns(("number", "when", "what", "alias", "version", "who", "why"), rows)]
    return Outcome(values, text="\n".join(lines))


def promote_command(invocation: Invocation) -> Outcome:
    """Make a version the champion; waits while a run holds the model."""
    store = ArtifactStore.open(invocation.settings.storage)
    name, version = invocation.options.model, invocation.options.version
    ref = ArtifactRef(KIND, name, version)
    alias = check_name(invocation.options.alias or CHAMPION)
    store.manifest(ref)
    with Lease.hold(store, name, doing="models promote"):
        metrics = metrics_of(store, ref)
        entry = Registry(store).decide(name, alias=alias, to=version, why=invocation.options.reason, metrics=metrics)
    return Outcome({"name": name, "version": version, "alias": alias, "from": entry.before, "number": entry.number})


def rollback_command(invocation: Invocation) -> Outcome:
    """Make the champion before this one the champion again; waits while a run holds the model."""
    store = ArtifactStore.open(invocation.settings.storage)
    name, registry = invocation.options.model, Registry(store)
    alias = invocation.options.alias or CHAMPION
    registry.rollback_target(name, alias=alias)
    with Lease.hold(store, name, doing="models rollback"):
        entry = registry.rollback(name, alias=alias, why=invocation.options.reason)
    return Outcome({"name": name, "version": entry.to, "alias": alias, "from": entry.before, "number": entry.number})


def verify_command(invocation: Invocation) -> Outcome:
    """Read every file in the store and compare it with its manifest; exit 1 if one is damaged."""
    store, name = ArtifactStore.open(invocation.settings.storage), invocation.options.model
    with invocation.display.stage("verify"):
        versions = verify(store, name, progress=invocation.display.progress)
    damages = [damage for version in versions for damage in version.damages]
    values = {
        "ok": not damages,
        "versions": len(versions),
        "files": sum(version.files for version in versions),
        "bytes": sum(version.bytes for version in versions),
        "damaged": [asdict(damage) for damage in damages],
    }
    rows: list[tuple[str, ...]] = [
        (
            version.ref,
            str(version.files),
            in_bytes(version.bytes),
            ", ".join(version.made_from) or "-",
            version.code or "-",
            f"{len(version.damages)} damaged" if version.damages else "ok",
        )
        for version in versions
    ]
    heads = ("version", "files", "size", "made from", "code", "state")
    lines = [columns(heads, rows), *(line(f"{damage.path}: {damage.problem}") for damage in damages)]
    return Outcome(values, text="\n".join(lines), exit_code=1 if damages else 0)


def gc_command(invocation: Invocation) -> Outcome:
    """Delete what nothing needs any more."""
    dry_run: bool = invocation.options.dry_run
    storage = invocation.settings.storage
    found = collect(ArtifactStore.open(storage), dry_run=dry_run, grace_s=3600 * storage.grace_hours, keep_last=storage.keep_last)
    size = sum(item.bytes for item in found)
    values = {"dry_run": dry_run, "bytes": size, "removed": [asdict(item) for item in found]}
    if not found:
        return Outcome(values, text="nothing to delete")
    rows: list[tuple[str, ...]] = [(item.path, in_bytes(item.bytes), item.reason) for item in found]
    done = "would be deleted" if dry_run else "deleted"
    last = f"{len(rows)} {done}, {in_bytes(size)} in all"
    last += ". Nothing was deleted: without --dry-run it is" if dry_run else ""
    return Outcome(values, text=columns((done, "size", "why"), rows) + f"\n{last}")


def describe(store: ArtifactStore, ref: ArtifactRef) -> dict[str, Any]:
    """What ``models show`` prints of a trained version."""
    manifest = store.manifest(ref)
    aliases = [alias for alias, version in Registry(store).aliases(ref.name).items() if version == ref.version]
    return {
        "name": ref.name,
        "version": ref.version,
        "aliases": aliases,
        "metrics": metrics_of(store, ref),
        "weights_sha256": TrainedFacts.of(manifest).weights_sha256,
        "upstream": dict(manifest.upstream),
        "created": manifest.created,
    }


def metrics_of(store: ArtifactStore, ref: ArtifactRef) -> dict[str, float]:
    """Metrics of the newest report on a trained version; empty if it was never evaluated."""
    for report in reversed(store.versions("report", ref.name)):
        manifest = store.manifest(report)
        if manifest.upstream.get("trained") == str(ref):
            return ReportFacts.of(manifest).metrics
    return {}


def _summary(store: ArtifactStore, registry: Registry, name: str) -> dict[str, Any]:
    versions = store.versions(KIND, name)
    champion = registry.alias(name)
    best = champion or (versions[-1].version if versions else None)
    try:
        metrics = metrics_of(store, ArtifactRef(KIND, name, best)) if best else {}
    except NotFoundError:  # the champion was deleted; the list still shows that it is meant to be there
        metrics = {}
    return {
        "name": name,
        "versions": len(versions),
        "champion": champion,
        "newest": versions[-1].version if versions else None,
        "metrics": metrics,
    }
