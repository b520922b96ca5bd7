"""A run by schedule and one by command line on the stack: executors of their own, S3 alone, one hash."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]


def test_schedule_and_command_line_give_one_hash(stack: Any, scheduled: dict[str, Any]) -> None:
    by_hand = stack.retrain("by-hand")
    assert by_hand["status"] == "done"
    assert len(by_hand["weights_sha256"]) == 64
    assert scheduled["weights_sha256"] == by_hand["weights_sha256"]

    # Both ran on both workers of the cluster, and what they made is in the store alone.
    for number in (1, 2):
        assert len([*(stack.folder / f"spark-worker-{number}" / "work").glob("app-*")]) >= 2
    assert stack.command("models", "verify", "--config", stack.described["config"])["damaged"] == []


def test_it_is_alive_and_a_second_up_changes_nothing(stack: Any, scheduled: dict[str, Any]) -> None:
    folder = str(stack.folder)
    found = stack.command("stack", "status", "--folder", folder)
    assert found["status"] == "up"
    assert {name: service["alive"] for name, service in found["services"].items()} == dict.fromkeys(
        ("prefect-server", "s3-server", "spark-master", "spark-worker-1", "spark-worker-2", "prefect-worker"), True
    )
    again = stack.command("stack", "up", *stack.options, *stack.flags)
    assert again["status"] == "already up"
    pids = [{name: service["pid"] for name, service in one["services"].items()} for one in (found, again)]
    assert pids[0] == pids[1]
    nightly = stack.deployment("retrain/nightly")
    assert (nightly["paused"], nightly["schedules"][0]["schedule"]["cron"]) == (True, "* * * * *")  # it was paused by hand


def test_keys_are_for_their_owner_alone(stack: Any) -> None:
    config = Path(stack.described["config"])
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    secret = next(line for line in config.read_text().splitlines() if line.startswith("secret")).split('"')[1]
    others = [path for path in stack.folder.rglob("*") if path.is_file() and path != config]
    assert others
    assert [path.name for path in others if secret.encode() in path.read_bytes()] == []
