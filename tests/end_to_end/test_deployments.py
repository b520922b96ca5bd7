"""Deployments against a real server and a real worker: deploy, cancel, retry, what a run shows, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.deployment.specs import DeployOptions, deployments_of
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.settings import StorageSettings, load_settings

CANCEL_LIMIT_S = 30.0
LONG = {"batch_size": 16, "max_steps": 150, "epochs": 100, "checkpoint_every_steps": 10}


@pytest.fixture(scope="module")
def flags(tsv: Path, model_flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    store = tmp_path_factory.mktemp("deployed") / "store"
    train = ["--train.max_steps", "4", "--train.batch_size", "16", "--spark.master", "none"]
    return ["--name", "tiny", *model_flags, *train, "--data.source", str(tsv), "--storage.uri", str(store)]


@pytest.fixture(scope="module")
def stand(prefect_stand: Any, flags: list[str]) -> Any:
    """The server with the deployments and a worker; the first deploy makes everything."""
    done = prefect_stand.ts4s("deploy", *flags, "--timezone", "Europe/Madrid", "--json")
    assert done.returncode == 0, done.stderr
    objects = json.loads(done.stdout)["objects"]
    assert set(objects.values()) == {"created"}
    prefect_stand.start_worker()
    return prefect_stand


@pytest.mark.stack
@pytest.mark.timeout(600)
def test_a_cancelled_run_is_retried_and_shows_what_it_did(stand: Any, flags: list[str]) -> None:
    run = stand.run("retrain/on-demand", train=LONG)
    stand.until(lambda: any("checkpoint of step" in line for line in stand.logs(run)), what="a checkpoint")
    assert len(stand.processes_of(run)) >= 3
    stand.cancel(run)
    state = stand.wait(run, states=("CANCELLED",), limit_s=CANCEL_LIMIT_S)
    assert state["type"] == "CANCELLED"
    stand.until(lambda: not stand.processes_of(run), what="the end of every process of the run", limit_s=CANCEL_LIMIT_S)

    stand.retry(run)
    stand.until(lambda: stand.state_of(run)["type"] == "RUNNING", what="the second attempt")
    # An overlapping run of the model is skipped meanwhile, at once.
    overlapping = stand.run("retrain/on-demand", train=LONG)
    state = stand.wait(run)
    assert state["type"] == "COMPLETED", state
    assert state["message"].startswith("done: tiny ")
    skipped = stand.wait(overlapping)
    assert (skipped["type"], skipped["name"]) in {("COMPLETED", "Skipped"), ("COMPLETED", "Unchanged")}

    said = stand.logs(run)
    for kind in ("onnx", "dataset", "model"):
        assert any(line.startswith(f"{kind}/") and line.endswith("was there already") for line in said), kind
    assert any(line.startswith("training goes on from checkpoint ") for line in said)
    assert any("worker 0 of" in line and " on " in line for line in said)
    shown = stand.artifacts(run)
    assert shown["train-progress-tiny"]["data"] == 100
    assert "loss=" in shown["train-progress-tiny"]["description"]
    assert "tokens_per_s=" in shown["train-progress-tiny"]["description"]
    assert "seconds_left=" in shown["train-progress-tiny"]["description"]
    for picture in ("loss-tiny", "confusion-tiny"):
        assert shown[picture]["type"] == "image"
        assert shown[picture]["data"].startswith("data:image/png;base64,")
    assert {row["metric"] for row in json.loads(shown["metrics-tiny"]["data"])} == {"accuracy", "macro_f1", "loss"}
    assert "| candidate | " in shown["decision-tiny"]["data"]
    assert "| best constant answer | " in shown["decision-tiny"]["data"]
    assert "trained/tiny/" in shown["trained-tiny"]["data"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_deployments_that_were_made_before_each_flow_had_its_own_settings_go_on(
    stand: Any, tsv: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Their parameters and forms are those of commit 5bf3a8e: whole groups, of settings that the flow does not use too."""
    file = Path(__file__).parents[1] / "data/deployments_of_5bf3a8e.json"
    given: dict[str, Any] = {
        "name": "before",
        "deployment": "retrain/before",
        "model": {"source": f"config:{tiny_model}/config.json", "tokenizer": str(tiny_model / "tokenizer"), "max_length": 32},
        "data": {"source": str(tsv)},
        "train": {"batch_size": 16, "max_steps": 30, "epochs": 50, "learning_rate": 0.01},
        "spark": {"master": "none"},
        "storage": {"uri": str(tmp_path / "store")},
    }
    for flow, old in json.loads(file.read_text(encoding="utf-8")).items():
        parameters = {}
        for name, entry in old["parameter_openapi_schema"]["properties"].items():
            whole, own = entry["default"], given.get(name)
            parameters[name] = {**whole, **(own or {})} if isinstance(whole, dict) else whole if own is None else own
        now = stand.deployment(f"{flow}/{'on-demand' if flow == 'retrain' else 'data-source'}")
        assert now["parameter_openapi_schema"] != old["parameter_openapi_schema"]
        same = {
            name: now[name] for name in ("flow_id", "work_pool_name", "work_queue_name", "job_variables", "path", "pull_steps")
        }
        stand.api("deployments/", {**same, **old, "name": "before", "parameters": parameters, "enforce_parameter_schema": True})
    assert {"cell", "window"} <= {*parameters["data"], *stand.deployment("retrain/before")["parameters"]["model"]}

    state = stand.wait(stand.run("watch/before"))
    assert (state["type"], state["message"].partition(":")[0]) == ("COMPLETED", "started"), state
    found = stand.api(
        "flow_runs/filter", {"deployments": {"name": {"any_": ["before"]}}, "flows": {"name": {"any_": ["retrain"]}}}
    )
    assert len(found) == 1
    state = stand.wait(found[0]["id"])
    assert (state["type"], state["message"].split(" ")[:2]) == ("COMPLETED", ["done:", "before"]), state
    store = ArtifactStore.open(StorageSettings(uri=str(tmp_path / "store")))
    assert Registry(store).alias("before") == state["message"].split(" ")[2]


@pytest.mark.timeout(600)
def test_wrong_values_are_refused_by_the_form_or_at_once_by_the_run(stand: Any, flags: list[str]) -> None:
    deployment = stand.deployment("retrain/on-demand")
    path = f"deployments/{deployment['id']}/create_flow_run"
    code, text = stand.refusal(path, {"parameters": {**deployment["parameters"], "train": {"batch_size": 0}}})
    assert code == 409
    assert "batch_size" in text
    assert "minimum" in text
    assert stand.refusal(path, {"parameters": {"storage": {"secret": "hidden"}}})[0] == 409

    run = stand.run("retrain/on-demand", train={"workers": 3})
    state = stand.wait(run)
    refused = stand.ts4s("retrain", *flags, "--train.workers", "3")
    assert refused.returncode == 2
    assert state["type"] == "FAILED"
    assert refused.stderr == f"error: {state['message']}\n"


def test_a_second_deploy_changes_nothing(stand: Any, flags: list[str]) -> None:
    again = stand.ts4s("deploy", *flags, "--timezone", "Europe/Madrid", "--json")
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert result["changed"] is False
    assert set(result["objects"].values()) == {"unchanged"}
    nightly = stand.deployment("retrain/nightly")
    assert [entry["schedule"] for entry in nightly["schedules"]] == [
        {"cron": "0 2 * * *", "timezone": "Europe/Madrid", "day_or": True}
    ]
    assert nightly["entrypoint"] == "flows.retrain.retrain"


def test_the_file_for_prefects_own_command_line_says_the_same() -> None:
    settings = load_settings({"data": {"source": "rows.tsv"}}, environ={})
    ours = {deployment.full_name: deployment for deployment in deployments_of(settings, DeployOptions())}
    file = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text(encoding="utf-8"))
    assert len(file["deployments"]) == len(ours)
    for entry in file["deployments"]:
        flow = entry["entrypoint"].split(".")[-1].replace("_", "-")
        deployment = ours[f"{flow}/{entry['name']}"]
        assert (entry["entrypoint"], entry["description"]) == (deployment.entrypoint, deployment.description)
        assert entry["work_pool"]["work_queue_name"] == deployment.queue
        schedules = entry.get("schedules", [])
        cron = [(schedule["cron"], schedule["timezone"]) for schedule in schedules if "cron" in schedule]
        assert cron == ([deployment.cron] if deployment.cron else [])
        assert [schedule["interval"] for schedule in schedules if "interval" in schedule] == (
            [deployment.every_s] if deployment.every_s else []
        )


@pytest.mark.stack
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("approve", "ends"), [(True, "; approved: looks right"), (False, "; but it was not approved: not yet")])
def test_a_promotion_waits_for_a_person(stand: Any, approve: bool, ends: str) -> None:
    """The run pauses with its report at hand; Resume in the UI posts what the form holds."""
    name = f"asked-{approve}".lower()
    enough = {"batch_size": 16, "max_steps": 30, "learning_rate": 0.01}
    run = stand.run("retrain/on-demand", name=name, train=enough, evaluate={"require_approval": True})
    stand.wait(run, states=("PAUSED", "COMPLETED", "FAILED", "CRASHED"))
    state = stand.state_of(run)
    assert state["type"] == "PAUSED", state["message"]
    assert any(key.startswith("report") for key in stand.artifacts(run)), list(stand.artifacts(run))
    form = stand.api(f"flow_runs/{run}/input/{state['state_details']['run_input_keyset']['schema']}")
    assert {"approve", "reason"} == set(form["properties"])
    reason = ends.rpartition(": ")[2]
    answer = stand.api(f"flow_runs/{run}/resume", {"run_input": {"approve": approve, "reason": reason}})
    assert answer["status"] == "ACCEPT", answer
    state = stand.wait(run)
    assert state["type"] == "COMPLETED", state
    store = stand.deployment("retrain/on-demand")["parameters"]["storage"]["uri"]
    (entry,) = Registry(ArtifactStore.open(StorageSettings(uri=store))).entries(name)
    assert entry.action == ("promote" if approve else "refuse")
    assert entry.why.endswith(ends)
