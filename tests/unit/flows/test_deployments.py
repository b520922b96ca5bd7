from __future__ import annotations

from pathlib import Path

import pytest

from flows.deployment.specs import TRAINING_QUEUE, DeployOptions, deployments_of
from flows.lifecycle.final_state import summary_of
from flows.lifecycle.parameters import settings_of
from tasks.prefect_ui.show import decision_page
from ts4s_core.data.source_snapshot import take_snapshot
from ts4s_core.errors import SettingsError, SourceError
from ts4s_core.evaluation.gate.decision import Decision
from ts4s_core.settings import DataSettings, ModelSettings, StorageSettings, load_settings


def deployed(**groups: object) -> dict[str, dict[str, object]]:
    settings = load_settings({"name": "news", **groups}, environ={})
    return {deployment.full_name: deployment.parameters for deployment in deployments_of(settings, DeployOptions())}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("timezone", "Madrid", "--timezone Madrid is not valid"),
        ("cron", "at night", "--cron 'at night' is not valid"),
        ("limit", 0, "--limit 0 is not valid"),
        ("watch_every_s", 5, "--watch-every 5 is too often"),
    ],
)
def test_wrong_options_are_refused(option: str, value: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        DeployOptions(**{option: value})  # type: ignore[arg-type]


def test_what_was_given_becomes_parameters_with_paths_that_a_worker_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text("{}", encoding="utf-8")
    found = deployed(
        model={"source": "config:config.json"}, data={"source": "rows.tsv"}, train={"workers": 2}, spark={"master": "local[2]"}
    )
    assert found["retrain/nightly"] == {
        "name": "news",
        "model": {"source": f"config:{tmp_path}/config.json"},
        "data": {"source": f"{tmp_path}/rows.tsv"},
        "train": {"workers": 2},
        "spark": {"master": "local[2]"},
        "storage": {"uri": f"{tmp_path}/artifacts"},
    }
    assert found["watch/data-source"]["data"] == {"source": f"{tmp_path}/rows.tsv"}
    more = deployed(data={"source": "rows.tsv", "max_rows": 9, "label_column": "y"}, model={"dropout": 0.3})
    assert more["retrain/nightly"]["data"] == {"source": f"{tmp_path}/rows.tsv", "label_column": "y"}
    assert (more["retrain/nightly"]["more_data"], more["retrain/nightly"]["more_model"]) == ({"max_rows": 9}, {"dropout": 0.3})
    assert more["watch/data-source"]["more_data"] == {"max_rows": 9, "label_column": "y"}
    assert found["predict/on-demand"]["model"] == "news"


def test_secrets_are_no_parameters() -> None:
    found = deployed(
        storage={"uri": "s3://models/ts4s", "key": "AKIA1", "secret": "hidden"}, data={"source": "s3://lake/rows.tsv"}
    )
    assert "hidden" not in str(found)
    assert found["retrain/on-demand"]["storage"] == {"uri": "s3://models/ts4s"}
    assert found["retrain/on-demand"]["data"] == {"source": "s3://lake/rows.tsv"}
    with pytest.raises(SettingsError, match=r"storage\.secret is a secret and not a flow parameter.*TS4S_STORAGE__SECRET"):
        settings_of("retrain", {"storage": {"secret": "hidden"}})


def test_there_is_a_watch_only_where_there_are_files() -> None:
    assert "watch/data-source" not in deployed()
    assert "watch/data-source" not in deployed(data={"source": "lake.rows", "format": "table"})
    assert "watch/data-source" in deployed(data={"source": "/lake/*.parquet"})


def test_only_trainings_are_limited() -> None:
    settings = load_settings({"data": {"source": "/lake"}}, environ={})
    queues = {deployment.full_name: deployment.queue for deployment in deployments_of(settings, DeployOptions())}
    assert {name for name, queue in queues.items() if queue == TRAINING_QUEUE} == {
        "retrain/nightly",
        "retrain/on-demand",
        "language-model/on-demand",
    }


def test_models_and_json_make_the_same_settings() -> None:
    models = settings_of("retrain", {"model": ModelSettings(max_length=64)}, name="a")
    assert models == settings_of("retrain", {"model": {"max_length": 64}}, name="a")
    with pytest.raises(SettingsError, match=r"train\.workers 3 does not divide train\.logical_shards 4"):
        settings_of("retrain", {"train": {"workers": 3}})


def test_a_run_says_how_it_ended() -> None:
    done = {"status": "done", "model": "news", "version": "v1", "promoted": True, "why": "it is better"}
    assert summary_of(done) == "done: news v1 promoted: it is better"
    assert summary_of({**done, "promoted": False}) == "done: news v1 not promoted: it is better"
    assert summary_of({**done, "status": "unchanged"}).startswith("unchanged: news v1 ")
    assert summary_of({**done, "status": "skipped", "why": "held"}) == "skipped: held"
    assert summary_of({"rows": 7, "errors": 0, "output": "predictions/news/v1"}) == "rows 7, errors 0, output predictions/news/v1"


def test_a_decision_shows_both_scores() -> None:
    gain = {"candidate": 0.91, "champion": 0.88, "gain": 0.03, "low": 0.01, "high": 0.05, "rows": 400}
    figures = {"metric": "accuracy", "candidate": 0.92, "baseline": 0.5, "gain": gain}
    page = decision_page("Promoted: better", Decision(True, "better", "trained/news/v1", figures))
    assert "| | accuracy |" in page
    assert "| candidate | 0.91 |" in page
    assert "| champion trained/news/v1 | 0.88 |" in page
    assert "| best constant answer | 0.5 |" in page
    first = decision_page("Promoted", Decision(True, "first", None, {**figures, "gain": None}))
    assert "| candidate | 0.92 |" in first
    assert "champion" not in first


def test_a_look_sees_content_alone(tmp_path: Path) -> None:
    def snapshot(folder: Path) -> str:
        return take_snapshot(DataSettings(source=str(folder)), StorageSettings()).digest

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.tsv").write_bytes(b"x\ty\n")
    before = snapshot(tmp_path / "one")
    assert snapshot(tmp_path / "two") == before
    (tmp_path / "one" / "a.tsv").touch()
    (tmp_path / "one" / "_SUCCESS").write_bytes(b"")
    assert snapshot(tmp_path / "one") == before
    (tmp_path / "one" / "a.tsv").write_bytes(b"x\tz\n")
    changed = snapshot(tmp_path / "one")
    assert changed != before
    (tmp_path / "one" / "b.tsv").write_bytes(b"x\tz\n")
    assert snapshot(tmp_path / "one") not in {before, changed}
    with pytest.raises(SourceError, match="has no files to look at"):
        take_snapshot(DataSettings(), StorageSettings())
