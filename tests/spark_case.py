"""What uses Spark, once through, on whichever Spark this process has: ``python spark_case.py MASTER FOLDER [PART ...]``.

MASTER is ``local[2]``, a cluster's URL or ``sc://HOST:PORT``. The parts are ``steps`` (a tiny model from scan to report, and a
prediction of a file), ``sql`` (the trained version in Spark SQL and over a DataFrame) and ``ml`` (the estimator). The last line
of standard output is JSON: versions, Java, the processor's instructions, seconds of each part, and what it found, hashes among
them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trained_models import make_settings

from ts4s_core.settings import Settings, load_settings

TRAIN = {"workers": 2, "logical_shards": 2, "max_steps": 3, "batch_size": 16, "timeout_s": 60}


def settings_of(master: str, folder: Path, **spark: str) -> Settings:
    plain = make_settings(folder, name="case").plain()
    return load_settings({**plain, "spark": {"master": master, **spark}, "train": TRAIN})


def steps(master: str, folder: Path) -> dict[str, Any]:
    """The steps of a retraining, and the prediction of a file, each as a job of the driver program."""
    from ts4s_core.pipeline.classifier_run import ClassifierRun
    from ts4s_core.pipeline.prediction_run import PredictionRun
    from ts4s_core.prediction.options import PredictOptions
    from ts4s_core.training.facts import TrainedFacts

    settings = settings_of(master, folder)
    lines: list[tuple[str, Any]] = []
    run = ClassifierRun(settings, progress=lambda stage, fields: lines.append((stage, dict(fields))))
    with run.program:
        checked = run.check()
        base = run.export().ref
        model = run.import_model(base, classes=len(checked.labels), labels=checked.labels).ref
        dataset = run.prepare(base).ref
        trained = run.train(dataset, model)
        report = run.evaluate(trained.ref, dataset, seconds={})
    facts = TrainedFacts.of(trained)
    texts = folder / "texts.txt"
    texts.write_text("w5 w6 w7\nw8 w9\n" * 20)
    to_predict = load_settings({**settings.plain(), "data": {"source": str(texts), "format": "text"}})
    predicting = PredictionRun(to_predict)
    with predicting.program:
        predicted = predicting.predict(trained.ref, PredictOptions(output=str(folder / "predicted")))
    (folder / "trained.ref").write_text(str(trained.ref))
    return {
        "weights_sha256": facts.weights_sha256,
        "workers": facts.workers,
        "restarts": facts.restarts,
        "shown_steps": [fields["step"] for stage, fields in lines if stage == "train"][-1],
        "accuracy": report.facts["metrics"]["accuracy"] if "metrics" in report.facts else None,
        "predicted": predicted["rows"],
        "left": left_in(folder / "store"),
    }


def left_in(store: Path) -> list[str]:
    """Temporary files of the store."""
    return sorted(str(path.relative_to(store)) for path in store.rglob("*") if ".ts4s-tmp-" in str(path))


def session_of(master: str) -> Any:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder
    if master.startswith("sc://"):
        return builder.remote(master).getOrCreate()
    from ts4s_core.spark.session.java import find_java

    os.environ.update(find_java().environment(os.environ))
    os.environ["PYSPARK_PYTHON"] = sys.executable
    quiet = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    conf = {**quiet, "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    for name, value in conf.items():
        builder = builder.config(name, value)
    return builder.master(master).getOrCreate()


def sql(master: str, folder: Path) -> dict[str, Any]:
    """The trained version as a function of Spark SQL, and over a DataFrame."""
    from ts4s_core.artifacts.registry import Registry
    from ts4s_core.artifacts.store import ArtifactStore
    from ts4s_core.artifacts.versions.refs import ArtifactRef
    from ts4s_core.spark.prediction import predict_frame, predict_udf

    session = session_of(master)
    storage = settings_of(master, folder).storage
    name = f"case@{ArtifactRef.parse((folder / 'trained.ref').read_text()).version}"
    assert Registry(ArtifactStore.open(storage)).resolve(name).kind == "trained"
    frame = session.createDataFrame([(1, "w5 w6 w7"), (2, None), (3, "w8 w9")], "id int, text string")
    answer = predict_udf(session, name, storage=storage)
    session.udf.register("answer", answer)
    frame.createOrReplaceTempView("rows")
    told = session.sql("select id, answer(text).label as label, answer(text).error as error from rows order by id").collect()
    framed = predict_frame(frame, name, storage=storage).select("id", "label").orderBy("id").collect()
    return {
        "labels": [row["label"] for row in told],
        "errors": [row["error"] for row in told],
        "framed": [row["label"] for row in framed],
    }


def ml(master: str, folder: Path) -> dict[str, Any]:
    """A network on two features: fitted in a pipeline, saved, loaded, asked."""
    import torch
    from torch import nn

    from ts4s_core.spark import TorchEstimator, TorchModel

    session = session_of(master)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    rows = [([float(i % 7), 1.0, float(i % 5), float(i % 2)], int(i % 7 > 3)) for i in range(400)]
    frame = session.createDataFrame(rows, "features array<double>, label int")
    estimator = TorchEstimator(module=network, workers=2, epochs=2, batchSize=32, seed=3, scratchUri=str(folder / "scratch"))
    estimator.write().overwrite().save(str(folder / "estimator"))
    estimator = TorchEstimator.load(str(folder / "estimator"))
    model = estimator.fit(frame)
    predicted = [row["prediction"] for row in model.transform(frame).limit(20).collect()]
    model.write().overwrite().save(str(folder / "model"))
    model.write().overwrite().save(str(folder / "model"))  # over itself
    loaded = TorchModel.load(str(folder / "model"))
    again = [row["prediction"] for row in loaded.transform(frame).limit(20).collect()]
    scratch = folder / "scratch"
    return {
        "trained_sha256": model.facts["weights_sha256"],
        "weights_sha256": loaded.weights_sha256,
        "same": predicted == again and loaded.weights_sha256 == model.weights_sha256,
        "columns": model.transform(frame).columns,
        "left": sorted(path.name for path in scratch.rglob("*")) if scratch.exists() else [],
    }


PARTS: dict[str, Callable[[str, Path], dict[str, Any]]] = {"steps": steps, "sql": sql, "ml": ml}


def main(master: str, folder: Path, parts: list[str]) -> None:
    from pyspark.sql import SparkSession

    from ts4s_core.artifacts.versions.environment import instruction_set, library_versions
    from ts4s_core.spark.session.java import find_java

    folder.mkdir(parents=True, exist_ok=True)
    libraries = library_versions()
    found: dict[str, Any] = {
        "spark": libraries.pop("pyspark"),
        "python": libraries.pop("python"),
        "java": find_java().version,
        "instructions": instruction_set(),
        "libraries": libraries,
    }
    for part in parts or list(PARTS):
        started = time.monotonic()
        found[part] = PARTS[part](master, folder)
        found[part]["seconds"] = round(time.monotonic() - started, 1)
        print(json.dumps({part: found[part]}), flush=True)
    session = SparkSession.getActiveSession()
    if session is not None:
        session.stop()  # else PySpark's client has something to ask at its exit, for ten minutes where the server is gone
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
