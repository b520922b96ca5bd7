"""Manifests of any content: what is written is read again, and the content's hash hangs on what it must hang on alone."""

from __future__ import annotations

import dataclasses
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from ts4s_core.artifacts.versions.manifest import FileEntry, Manifest, RowGroup
from ts4s_core.artifacts.versions.refs import ENDINGS, KINDS, ArtifactRef
from ts4s_core.errors import IntegrityError

VERSION = "20261121T041500.123456Z-1a2b3c4d"
NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)
FACTS = st.dictionaries(TEXTS, VALUES, max_size=4)
PATHS = st.tuples(st.lists(NAMES, min_size=1, max_size=3), st.sampled_from(ENDINGS)).map(lambda made: "/".join(made[0]) + made[1])


@st.composite
def entries(draw: st.DrawFn, path: str) -> FileEntry:
    pieces = draw(st.none() | st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99), HASHES), min_size=1, max_size=3))
    if pieces is None:
        return FileEntry(path, draw(st.integers(0, 2**50)), draw(HASHES), draw(st.booleans()))
    groups, offset = [], 0
    for rows, size, digest in pieces:
        groups.append(RowGroup(rows, offset, size, digest))
        offset += size
    return FileEntry(path, offset, draw(HASHES), draw(st.booleans()), tuple(groups))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    paths = draw(st.lists(PATHS, unique=True, max_size=4))
    return Manifest(
        kind=draw(st.sampled_from(KINDS)),
        name=draw(NAMES),
        version=VERSION,
        key=draw(HASHES),
        created=draw(TEXTS),
        settings=draw(FACTS),
        upstream=draw(st.dictionaries(TEXTS, TEXTS, max_size=3)),
        code=draw(TEXTS),
        libraries=draw(st.dictionaries(TEXTS, TEXTS, max_size=3)),
        instruction_set=draw(TEXTS),
        files=tuple(draw(entries(path)) for path in paths if path != "manifest.json"),
        facts=draw(FACTS),
    )


@given(manifests())
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_read(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json(), manifest.ref) == manifest


@given(manifests(), st.randoms(use_true_random=False), HASHES)
@settings(deadline=None, max_examples=60)
def test_content_hash_hangs_on_identity_files_alone(manifest: Manifest, chance: object, other: str) -> None:
    shuffled = list(manifest.files)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    others = dataclasses.replace(manifest, files=tuple(shuffled), name="other", created="", facts={}, settings={}, upstream={})
    assert others.content_sha256 == manifest.content_sha256
    for entry in manifest.files:
        changed = tuple(dataclasses.replace(one, sha256=other) if one is entry else one for one in manifest.files)
        same = dataclasses.replace(manifest, files=changed).content_sha256 == manifest.content_sha256
        assert same == (not entry.identity or entry.sha256 == other)


@given(manifests(), st.data())
@settings(deadline=None, max_examples=100)
def test_any_other_value_in_any_place_is_read_or_refused(manifest: Manifest, data: st.DataObject) -> None:
    record = json.loads(manifest.to_json())
    holder, key = record, data.draw(st.sampled_from(sorted(record)))
    while holder[key] and isinstance(holder[key], dict | list) and data.draw(st.booleans()):
        holder = holder[key]
        key = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
    holder[key] = data.draw(VALUES)
    ref = ArtifactRef(manifest.kind, manifest.name, VERSION)
    try:
        found = Manifest.from_json(json.dumps(record).encode(), ref)
    except IntegrityError as refused:
        found, said = None, str(refused)
    assert "manifest.json" in said if found is None else found.ref == ref
    assert found is None or len(found.content_sha256) == 64
