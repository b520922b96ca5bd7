"""A run by schedule and one by command line on the stack: executors of their own, S3 alone, one hash."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from strangers import answers_to_posts, as_a_stranger

#: A program on a cluster, without the cluster's secret.
ECHO_ON = """
import sys
from ts4s_core.settings import Settings
from ts4s_core.spark.driver.client import SparkProgram
with SparkProgram(Settings(spark={"master": sys.argv[1], "conf": ("spark.driver.host=127.0.0.1",)})) as program:
    program.run({"job": "echo", "items": ["a"]}, timeout_s=120)
"""
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
    config, login = Path(stack.described["config"]), Path(stack.described["prefect_login"])
    assert [stat.S_IMODE(path.stat().st_mode) for path in (config, login, stack.folder)] == [0o600, 0o600, 0o700]
    secrets = re.findall(r'^secret = "(.+)"$', config.read_text(), flags=re.MULTILINE)
    assert len(secrets) == 2  # of Spark and of the store
    others = [path for path in stack.folder.rglob("*") if path.is_file() and path not in (config, login)]
    assert others
    for secret in (*secrets, login.read_text().strip(), login.read_text().strip().partition(":")[2]):
        assert [path.name for path in others if secret.encode() in path.read_bytes()] == []
        assert [line for process in stack.processes() if secret in (line := " ".join(process.cmdline()))] == []


def test_another_user_can_run_nothing_as_the_owner(stack: Any, tmp_path: Path) -> None:
    """By posting a deployment; by a program on the cluster; by asking the master's pages to end one or to start one."""
    assert answers_to_posts(stack.api_url) == ["401"] * 8
    found = stack.command("stack", "status", "--folder", str(stack.folder))
    program = [sys.executable, "-c", ECHO_ON, found["spark_master"]]
    done = subprocess.run(program, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert "SparkError" in done.stderr
    for path in ("/app/kill/?id=app-0&terminate=true", "/v1/submissions/create"):
        answer = as_a_stranger("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", f"{found['spark_ui']}{path}")
        assert answer.stdout in ("404", "405", "403"), path
