from __future__ import annotations

from pathlib import Path


def test_any_number_of_workers_gives_one_hash(run, tmp_path: Path):
    found = {}
    for workers in (1, 2, 4):
        result = run(name=f"w{workers}", workers=workers, ledger=tmp_path / f"ledger{workers}")
        found[workers] = result.facts
    assert len({facts["weights_sha256"] for facts in found.values()}) == 1
