"""What points came to, and the file that they are kept in."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fault_points import Point


@dataclass(frozen=True)
class Record:
    """What a point came to.

    Attributes:
        hit: whether every victim was hit while the run went on, and the run felt it.
        steps_hit: step that had begun when each fault was done.
        ended: ``by itself``, or ``same command again``.
        failed_commands: what the commands said that did not come to their end.
        failed_attempts: what the driver said of attempts that failed.
        left: what was left behind.
        problems: anything else that is not as it should be.
        seconds: of the whole run, the undisturbed part included.
        noticed_s: seconds from a SIGSTOP to the end of its attempt.
    """

    seed: int
    index: int
    kind: str
    place: str
    workers: int
    aimed: list[dict[str, Any]]
    steps_hit: list[int]
    victims: int
    hit: bool
    ended: str
    failed_commands: list[str]
    failed_attempts: list[str]
    restarts: int
    workers_at_end: int
    weights_sha256: str
    expected_sha256: str
    left: list[str]
    problems: list[str]
    seconds: float
    noticed_s: float | None
    code: str
    at: str

    @property
    def well(self) -> bool:
        """Whether the run ended as it must."""
        return self.weights_sha256 == self.expected_sha256 and not self.left and not self.problems

    @property
    def counted(self) -> bool:
        """Whether the point counts."""
        return self.hit and self.well


class Results:
    """The records in one JSON file, which is whole after every point; several runs of the matrix may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def records(self) -> list[dict[str, Any]]:
        """All records so far."""
        return json.loads(self._path.read_text(encoding="utf-8"))["points"] if self._path.exists() else []

    def has(self, point: Point) -> bool:
        """Whether a point was counted already."""
        return any((found["seed"], found["index"]) == (point.seed, point.index) and found["counted"] for found in self.records())

    def add(self, record: Record) -> None:
        """Append a record."""
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self._write([*self.records(), {**asdict(record), "counted": record.counted}])
        finally:
            os.close(folder)

    def _write(self, records: list[dict[str, Any]]) -> None:
        counted = [found for found in records if found["counted"]]
        kinds = sorted({found["kind"] for found in counted})
        wrong = {(found["seed"], found["index"]) for found in records if found["hit"] and not found["counted"]}
        mended = wrong & {(found["seed"], found["index"]) for found in counted}
        summary = {
            "counted": len(counted),
            "hashes": sorted({found["weights_sha256"] for found in counted}),
            "by_kind": {kind: sum(found["kind"] == kind for found in counted) for kind in kinds},
            "not_as_they_should_be": len(wrong - mended),
            "after_a_mend": len(mended),
        }
        text = json.dumps({"summary": summary, "points": records}, indent=1, ensure_ascii=False) + "\n"
        new = self._path.with_name(f".{self._path.name}.new")
        new.write_text(text, encoding="utf-8")
        os.replace(new, self._path)
