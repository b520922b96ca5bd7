"""A model and a dataset that are as yet untrained on, and trainings of them: in plain processes, in Spark, over Spark Connect."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
from trained_models import make_settings, prepare

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.models.import_step import import_model
from ts4s_core.onnx.exporting.step import export_model
from ts4s_core.settings import Settings, load_settings
from ts4s_core.spark.driver.client import SparkProgram

TRAIN = {"workers": 2, "logical_shards": 2, "max_steps": 3, "batch_size": 16, "timeout_s": 60}
#: Long enough to be disturbed.
LONG = {"epochs": 200, "max_steps": 900, "checkpoint_every_steps": 30, "timeout_s": 10}


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A store with a model and a dataset."""

    plain: Settings
    model: ArtifactRef
    dataset: ArtifactRef

    @classmethod
    def make(cls, folder: Path) -> Prepared:
        """In a folder."""
        plain = make_settings(folder, name="case")
        store = ArtifactStore.open(plain.storage)
        base = export_model(plain, store).ref
        model = import_model(plain, store, onnx_ref=base, classes=3, label_names=["ham", "spam", "tofu"]).ref
        return cls(plain, model, prepare(plain))

    def copy(self, folder: Path) -> Prepared:
        """The same with a store of its own."""
        shutil.copytree(self.plain.storage.uri, folder / "store")
        storage = {"uri": str(folder / "store"), "cache_dir": str(folder / "cache")}
        return dataclasses.replace(self, plain=load_settings({**self.plain.plain(), "storage": storage}))

    @property
    def job(self) -> dict[str, Any]:
        """The step as a job of the driver program."""
        return {"job": "train", "dataset": str(self.dataset), "model": str(self.model)}

    def settings(self, master: str, *, train: dict[str, Any] | None = None, **spark: str) -> Settings:
        """Of a training on that master."""
        return load_settings({**self.plain.plain(), "spark": {"master": master, **spark}, "train": {**TRAIN, **(train or {})}})

    def train(self, master: str, *, train: dict[str, Any] | None = None, **spark: str) -> tuple[str, list[int]]:
        """Hash of the weights of a training of its own, and the steps that were shown."""
        settings = load_settings({**self.settings(master, train=train, **spark).plain(), "reuse": False})
        steps: list[int] = []
        with SparkProgram(settings) as program:
            done = program.run(self.job, progress=lambda _stage, fields: steps.append(int(str(fields["step"]))), timeout_s=600)
        return str(done["facts"]["weights_sha256"]), steps


def training_workers(server: int) -> list[psutil.Process]:
    """Python workers of a server that hold open connections: to each other, and to rank 0's control server."""
    found = []
    for process in psutil.Process(server).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            connected = [one for one in process.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]
            if len(connected) > 1 and "pyspark.daemon" in process.cmdline():
                found.append(process)
    return found


def run_until(
    program: SparkProgram, prepared: Prepared, step: int, act: Callable[[], None], *, timeout_s: float = 600
) -> dict[str, Any]:
    """Train, and act once when so many steps were shown; what the job gave."""
    acted = threading.Event()

    def listen(stage: str, fields: Mapping[str, Any]) -> None:
        if stage == "train" and fields["step"] >= step and not acted.is_set():
            acted.set()
            act()

    try:
        return program.run(prepared.job, progress=listen, timeout_s=timeout_s)
    finally:
        assert acted.is_set()
