"""EMR's chain: jobs that the program takes, made from what is in the store."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ts4s_core.errors import NotFoundError, SettingsError
from ts4s_core.settings import Settings
from ts4s_core.spark.driver.jobs import JOBS

EMR = Path(__file__).parents[3] / "infra" / "emr"


@pytest.fixture(scope="module")
def job_module() -> Any:
    spec = importlib.util.spec_from_file_location("ts4s_infra_emr_job", EMR / "job.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_job_names_the_newest_of_what_it_reads(job_module: Any, tiny_models: Any) -> None:
    ref = tiny_models.trained("roberta", with_dataset=True)
    settings = tiny_models.settings("roberta")
    upstream = tiny_models.store.manifest(ref).upstream
    evaluated = job_module.job_of("evaluate", settings)
    assert {role: evaluated[role] for role in ("job", "trained")} == {"job": "evaluate", "trained": str(ref)}
    assert evaluated["dataset"] == upstream["dataset"]
    prepared = job_module.job_of("prepare", settings)
    assert prepared["onnx"] == str(tiny_models.store.newest("onnx", prepared["onnx"].split("/")[1]))
    assert {"prepare", "train", "evaluate"} == set(job_module.STEPS) <= set(JOBS)


def test_what_is_missing_is_said(job_module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(name="none", storage={"uri": str(tmp_path / "store")})
    with pytest.raises(NotFoundError, match="no dataset artifact named none"):
        job_module.job_of("train", settings)
    with pytest.raises(SettingsError, match="step 'export' is not valid"):
        job_module.job_of("export", settings)
    assert job_module.main(["train", "--name", "none", "--storage.uri", str(tmp_path / "store")]) == 2
    assert capsys.readouterr().err.startswith("error: no dataset artifact named none")
    assert not (tmp_path / "store").exists()


def test_the_steps_are_a_chain() -> None:
    steps = json.loads((EMR / "steps.json").read_text(encoding="utf-8"))
    assert [step["Args"][1] for step in steps] == ["export", "prepare", "import", "train", "evaluate"]
    for step in steps:
        assert set(step) == {"Type", "Name", "ActionOnFailure", "Jar", "Args"}
        assert (step["Type"], step["Jar"]) == ("CUSTOM_JAR", "command-runner.jar")
        assert step["ActionOnFailure"] == "CANCEL_AND_WAIT"


def test_the_policy_has_what_the_store_calls() -> None:
    """Every call of S3's API that the sources make, by the action that AWS asks for."""
    policy = json.loads((EMR / "policy.json").read_text(encoding="utf-8"))
    actions = {action for statement in policy["Statement"] for action in statement["Action"]}
    action_of = {
        "get_object": "s3:GetObject",
        "head_object": "s3:GetObject",
        "put_object": "s3:PutObject",
        "create_multipart_upload": "s3:PutObject",
        "upload_part": "s3:PutObject",
        "complete_multipart_upload": "s3:PutObject",
        "abort_multipart_upload": "s3:AbortMultipartUpload",
        "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    }
    sources = [*(EMR.parents[1] / "ts4s_core").rglob("*.py")]
    called = {name for path in sources for name in re.findall(r"call(?:_s3)?\(\s*\"(\w+)\"", path.read_text(encoding="utf-8"))}
    assert {"create_multipart_upload", "abort_multipart_upload", "list_multipart_uploads"} <= called <= set(action_of)
    assert {action_of[name] for name in called} | {"s3:ListBucket", "s3:DeleteObject"} <= actions
    for statement in policy["Statement"]:
        assert statement["Resource"].endswith("/*") == (statement["Sid"] == "Objects")


def test_a_step_submits_the_program(tmp_path: Path) -> None:
    """step.sh with a spark-submit that only says what it was asked."""
    for name, text in {
        "spark-submit": 'printf "%s\\n" "$@"; cat "${@: -1}"',
        "python": f'exec {sys.executable} "$@"',
        "job": "",
    }.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "step.sh").write_text((EMR / "step.sh").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "job.py").write_text("import sys; print(sys.argv[1:])\n", encoding="utf-8")
    environ = {**os.environ, "PYTHON_BIN": str(tmp_path), "EXECUTORS": "8"}
    done = subprocess.run(
        ["bash", str(tmp_path / "step.sh"), "train", "news", "s3://bucket/ts4s", "--train.workers", "4"],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    words = done.stdout.splitlines()
    assert words[:4] == ["--master", "yarn", "--deploy-mode", "client"]
    assert "spark.executor.instances=8" in words
    assert words[-4].endswith("ts4s_core/spark/driver/program.py")
    assert "'--name', 'news', '--storage.uri', 's3://bucket/ts4s', '--train.workers', '4', '--spark.master', 'yarn'" in words[-1]
