"""Datasets whose manifest anybody may have written: facts of other types."""

from __future__ import annotations

from pathlib import Path

import pytest

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.data.dataset import Dataset
from ts4s_core.errors import IntegrityError
from ts4s_core.settings import StorageSettings

FACTS = {"labels": ["a", "b"], "fingerprint": "f", "max_length": 8, "pad_id": 0, "task": "classification"}


@pytest.mark.parametrize(
    "odd",
    [
        {"labels": 7},
        {"labels": None},
        {"max_length": []},
        {"max_length": "many"},
        {"pad_id": None},
        {"pad_id": {}},
        {"max_length": 1e999},
    ],
)
def test_fact_of_another_type(odd: dict[str, object], tmp_path: Path) -> None:
    store = ArtifactStore.open(StorageSettings(uri=str(tmp_path)))
    with store.begin("dataset", "evil", "ab" * 32, settings={}, upstream={}) as writer:
        writer.facts.update(FACTS | {name: value for name, value in odd.items() if value != float("inf")})
        writer.seal()
    if odd == {"max_length": float("inf")}:
        path = tmp_path / str(writer.ref) / "manifest.json"
        path.write_text(path.read_text().replace('"max_length": 8', '"max_length": 1e999'))
    with pytest.raises(IntegrityError, match=r"is no dataset: its manifest's facts have (labels|max_length|pad_id)"):
        Dataset.open(store, writer.ref)
