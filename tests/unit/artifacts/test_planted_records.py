"""Registry entries and leases that anybody with access to the store can write: refused, or passed over, with no other error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ts4s_core.artifacts.leases.lease import Lease, Limits, claims, live_claims
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.verify import verify
from ts4s_core.artifacts.versions.manifest import Manifest
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import IntegrityError

VERSION = "20261121T041500.123456Z-1a2b3c4d"
ENTRY: dict[str, Any] = {
    "number": 1,
    "name": "demo",
    "alias": "champion",
    "action": "promote",
    "to": VERSION,
    "why": "first",
    "who": "a@b",
    "when": "2026-11-21T04:15:00Z",
    "metrics": {},
    "from": None,
}
CLAIM: dict[str, Any] = {"token": "t", "host": "h", "pid": 1, "started": 1.0, "since": 1.0, "renewed": 9e9, "number": 1}
ODD = (None, True, -1, 2**70, 1.5, float("nan"), [], {}, ["x"], "\ud800")


def put(store: ArtifactStore, path: str, record: object) -> None:
    store.storage.write_bytes(path, json.dumps(record).encode())


def test_the_entry_and_the_claim_are_good(store: ArtifactStore) -> None:
    put(store, "registry/demo/00000001.json", ENTRY)
    assert Registry(store).aliases("demo") == {"champion": VERSION}
    put(store, "leases/demo/t.json", CLAIM)
    assert [claim.pid for claim in claims(store.storage, "demo")] == [1]
    # Of an earlier ts4s: nothing is known of its process, so it is watched. It is not seen to renew.
    store.storage.limits = Limits(expires_s=0.3, renew_s=0.05, poll_s=0.05)
    assert live_claims(store.storage) == {}


@pytest.mark.parametrize("field", ["number", "name", "alias", "action", "to", "why", "who", "when", "metrics", "from"])
def test_entry_with_a_field_that_cannot_be(store: ArtifactStore, field: str) -> None:
    fit: dict[str, tuple[Any, ...]] = {"to": (None,), "from": (None,), "metrics": ({},)}
    texts = () if field in ("number", "metrics", "name", "action", "to") else ("\ud800",)
    for value in ODD:
        if any(value == good and type(value) is type(good) for good in (*fit.get(field, ()), *texts)):
            continue
        put(store, "registry/demo/00000001.json", ENTRY | {field: value})
        with pytest.raises(IntegrityError, match=r"Registry entry registry/demo/00000001\.json is damaged"):
            Registry(store).entries("demo")


@pytest.mark.parametrize("field", list(CLAIM))
def test_claim_with_a_field_that_cannot_be_is_no_lease(store: ArtifactStore, field: str) -> None:
    for value in (None, -1, 2**70, float("nan"), [], {}, "x" if field not in ("token", "host") else 1):
        put(store, "leases/demo/t.json", CLAIM | {field: value})
        assert claims(store.storage, "demo") == []
        with Lease.hold(store, "demo", wait=False) as lease:
            lease.check()


def test_deep_json_is_no_lease(store: ArtifactStore) -> None:
    store.storage.write_bytes("leases/demo/t.json", b"[" * 100_000)
    assert claims(store.storage, "demo") == []


def test_a_planted_last_entry_does_not_fill_the_memory_of_verify(store: ArtifactStore) -> None:
    put(store, "registry/demo/00000001.json", ENTRY)
    put(store, "registry/demo/99999999.json", ENTRY | {"number": 99_999_999})
    problems = [damage.problem for row in verify(store) for damage in row.damages]
    assert problems[0] == "has gaps: entries 2 to 99999998 are missing"


MANIFEST: dict[str, Any] = {
    "format": 1,
    **dict.fromkeys(("key", "created", "code", "instruction_set"), "x"),
    "kind": "trained",
    "name": "demo",
    "version": VERSION,
    **{name: {} for name in ("settings", "upstream", "libraries", "facts", "upstream_sha256")},
    "files": [{"path": "a.json", "size": 1, "sha256": "ab" * 32, "identity": True}],
}


@pytest.mark.parametrize(
    "odd",
    [
        *({name: {"a": value}} for name in ("upstream", "libraries", "upstream_sha256") for value in (7, None, [], {})),
        *({"files": [MANIFEST["files"][0] | {"path": path}]} for path in ("\ud800.json", "x/\udfff/a.json", "a\x00.json")),
    ],
)
def test_manifest_with_what_cannot_be(store: ArtifactStore, odd: dict[str, Any]) -> None:
    ref = ArtifactRef("trained", "demo", VERSION)
    assert Manifest.from_json(json.dumps(MANIFEST).encode(), ref).ref == ref
    with pytest.raises(IntegrityError, match=r"manifest\.json is damaged"):
        Manifest.from_json(json.dumps(MANIFEST | odd).encode(), ref)
