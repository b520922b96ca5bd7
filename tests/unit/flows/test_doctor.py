"""What ``ts4s doctor`` makes of a cluster whose hosts are not like this one."""

from __future__ import annotations

from typing import Any

from flows.cli.commands.doctor import differences

HOST = {
    "host": "one",
    "instructions": "AVX2",
    "python": "3.11.7",
    "torch": "2.13.0+cpu",
    "numpy": "2.4.6",
    "pyarrow": "26.0.1",
    "pyspark": "4.3.0",
}


def found(*hosts: dict[str, str], spark: str = "4.3.0") -> dict[str, tuple[str, str]]:
    record: dict[str, Any] = {
        "spark": spark,
        "slots": 4,
        "here": {**HOST, "host": "here"},
        "hosts": [HOST | host for host in hosts],
    }
    return {finding.check: (finding.status, finding.found) for finding in differences(record)}


def test_hosts_like_this_one_are_well() -> None:
    findings = found({}, {"host": "two"})
    assert {status for status, _found in findings.values()} == {"ok"}
    assert findings["cluster"] == ("ok", "4 slots on one, two")
    assert findings["cluster torch"] == ("ok", "2.13.0+cpu; 2.13.0+cpu here")


def test_what_pyspark_or_workers_would_refuse_fails_and_what_changes_weights_is_warned_of() -> None:
    findings = found({"torch": "2.12.0"}, {"torch": "2.12.0", "python": "3.12.1", "instructions": "AVX512"}, spark="3.5.6")
    assert findings["cluster spark"] == ("warning", "3.5.6; pyspark here is 4.3.0")
    assert findings["cluster python"][0] == "failed"
    assert findings["cluster python"][1].startswith("3.11.7, 3.12.1; 3.11.7 here. PySpark wants one minor version")
    assert findings["cluster torch"] == ("warning", "2.12.0; 2.13.0+cpu here: weights will be those of the cluster's")
    assert findings["cluster instructions"][0] == "failed"
    assert findings["cluster numpy"][0] == "ok"


def test_a_host_without_torch_or_with_another_one_fails() -> None:
    assert found({"torch": "none"})["cluster torch"][0] == "failed"
    assert found({}, {"torch": "2.12.0"})["cluster torch"][0] == "failed"
