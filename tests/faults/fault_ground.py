"""Where runs take place: one tiny model and its rows, and whatever runs them, kept alive from point to point."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from fault_acts import small_disk
from fault_command import COMMAND_LIMIT_S, Command, Launch, flags
from fault_inputs import read_ledger, write_model, write_rows
from fault_leftovers import MARK, marked
from fault_network import Space
from fault_points import CHECKPOINT_EVERY, LEASE_KINDS, STEPS, Point

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.settings import Settings, StorageSettings
from ts4s_core.spark.driver.client import SparkProgram

#: Longest silence of a worker: short where a fault is a silence, else long enough for a busy machine.
NOTICED_WITHIN_S, PATIENCE_S = 6.0, 60.0


class LogListener(logging.Handler):
    """Keeps what ts4s logs during a point, and tells whoever waits for a word in it."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.on_line: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        self.lines.append(line)
        for listener in list(self.on_line):  # one may leave while it is told
            listener(line)


@dataclass
class Refusals:
    """A rule for the front before the S3 server: so many requests go wrong, then all is well again.

    Attributes:
        left: requests that are still to go wrong.
        action: in which way.
        done: requests that went wrong.
    """

    left: int
    action: str
    done: int = 0

    def __call__(self, _request: object) -> str:
        if self.left <= 0:
            return "pass"
        self.left -= 1
        self.done += 1
        return self.action


#: What ``FAULT_INPUTS``, the store of an earlier session, saves making again; what its steps' keys do not fit is made again.
KINDS_OF_INPUTS = ("onnx", "dataset", "model")


class Ground:
    """The places of :data:`fault_points.KINDS`; ``close`` ends everything."""

    def __init__(self, folder: Path, *, s3: Any, front: Any, cluster: Any) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)
        self.stores = {"folder": folder / "store"}
        self.log = LogListener()
        self.front: Any = None
        self.cluster: Any = None
        self.command: Command | None = None
        self.launch = Launch()
        self.disk: Path | None = None
        self.space: Space | None = None
        self._s3, self._front, self._cluster_class = s3, front, cluster
        self._programs: dict[str, SparkProgram] = {}
        self._endings = contextlib.ExitStack()
        self._infrastructure: set[int] = set()
        self._environment()
        if prepared := os.environ.get("FAULT_INPUTS"):
            for kind in KINDS_OF_INPUTS:
                shutil.copytree(Path(prepared) / kind, self.stores["folder"] / kind)
        self.inputs = self._prepare()

    def close(self) -> list[str]:
        """End everything; returns the processes that are left."""
        for program in self._programs.values():
            program.close()
        deadline = time.monotonic() + 10
        kept = set(self._infrastructure) | (self.cluster.pids() if self.cluster else set())
        while (left := {pid: line for pid, line in marked(self.mark).items() if pid not in kept}) and time.monotonic() < deadline:
            time.sleep(0.1)
        self._endings.close()
        return [f"process {pid} {line}" for pid, line in left.items()]

    def kept(self) -> set[int]:
        """Roots of the process trees that live on from point to point."""
        pids = {program.pid for program in self._programs.values() if program.pid is not None}
        return pids | self._infrastructure | (self.cluster.pids() if self.cluster is not None else set())

    def settings(self, point: Point, ledger: Path, *, workers: int | None = None) -> Settings:
        """The settings of a point's run; what bears on its weights is the same for all."""
        masters = {"spark": "local[2]", "cluster": self.cluster.url if self.cluster else "", "retrain-command": "local[2]"}
        if point.kind in LEASE_KINDS:
            masters["retrain-command"] = "none"
        timeout_s = NOTICED_WITHIN_S if point.kind in ("worker-stop", "driver-cut") else PATIENCE_S
        return Settings(
            name=point.name,
            **self._inputs,
            train={
                "workers": point.workers if workers is None else workers,
                "batch_size": 24,
                "epochs": 20,
                "max_steps": STEPS,
                "learning_rate": 3e-3,
                "checkpoint_every_steps": CHECKPOINT_EVERY,
                "timeout_s": timeout_s,
                "ledger": str(ledger),
            },
            spark={"master": masters.get(point.place, "none"), "conf": self.cluster.conf if point.place == "cluster" else ()},
            storage=self.storage(point.place),
        )

    def storage(self, place: str) -> StorageSettings:
        """The store of a place."""
        if place == "s3":
            return self._bucket.model_copy(update={"endpoint_url": self.front.url})
        return StorageSettings(uri=str(self.stores["disk" if place == "disk" else "folder"]))

    def store_folder(self, place: str) -> Path:
        """The folder that a place's store is in."""
        return self.stores.get(place, self.stores["folder"])

    def program(self, place: str) -> SparkProgram:
        """The driver program of a place, started by its first job."""
        return self._programs[place]

    def ready(self, place: str) -> None:
        """Start what a place needs."""
        if place == "cluster":
            if self.cluster is None:
                before = set(marked(self.mark))
                self.cluster = self._endings.enter_context(self._cluster_class(self.folder / "cluster"))
                self._infrastructure |= set(marked(self.mark)) - before
            for number in self.cluster.missing_workers():
                self.cluster.start_worker(number)
        if place == "disk" and self.disk is None:
            self.disk = self._endings.enter_context(small_disk(self.folder / "disk"))
            (self.disk / "tmp").mkdir()
            self.stores["disk"] = self.disk / "store"
            self._copy_inputs(self.stores["disk"])
        if place == "namespace" and self.space is None:
            self.space = Space()
            self._endings.callback(self.space.close)
        if place == "s3" and self.front is None:
            self._start_s3()
        if not place.endswith("-command"):
            self._programs.setdefault(place, SparkProgram(Settings()))

    def train(self, point: Point, settings: Settings) -> dict[str, Any]:
        """One command to the end: facts of the trained version.

        Raises:
            Ts4sError: if it failed or was killed.
        """
        if point.place.endswith("-command"):
            self.command = self.start_command(point, settings, self.launch)
            try:
                return self.command.end()
            finally:
                self.log.lines += self.command.said
        program = self.program(point.place)
        program._settings = settings  # one program runs many points
        job = self.job()
        where = self.disk / "tmp" if point.place == "disk" and self.disk else self.temporary
        tempfile.tempdir = str(where)
        try:
            run = functools.partial(program.run, job, timeout_s=COMMAND_LIMIT_S)
            return dict((self.space.run(run) if point.place == "namespace" and self.space else run())["facts"])
        finally:
            tempfile.tempdir = str(self.temporary)

    def reference(self) -> tuple[str, dict[tuple[int, int], str]]:
        """Hash and ledger of an undisturbed run of one worker."""
        ledger = self.folder / "ledger-reference"
        point = Point(0, 0, "none", "processes", (), 0, 1, 0)
        self.ready("processes")
        facts = self.train(point, self.settings(point, ledger))
        return str(facts["weights_sha256"]), read_ledger(ledger)

    def forget(self, point: Point) -> None:
        """Remove what a point's run made, so that it is made again."""
        storage = ArtifactStore.open(self.storage(point.place)).storage
        for kind in ("checkpoint", "trained", "report"):
            storage.delete_tree(f"{kind}/{point.name}")
        storage.delete_tree(f"registry/{point.name}")
        shutil.rmtree(self.folder / "ledgers" / point.name)  # an attempt that it tells of is none of the next try

    def java(self, pid: int) -> list[psutil.Process]:
        """JVMs that a process started."""
        return [child for child in psutil.Process(pid).children(recursive=True) if child.name() == "java"]

    def job(self) -> dict[str, Any]:
        """A training, as a job of a driver program."""
        return {"job": "train", **{kind: str(ref) for kind, ref in self.inputs.items()}}

    def start_command(self, point: Point, settings: Settings, launch: Launch) -> Command:
        """Give the command of a place."""
        words = ["retrain"] if point.place == "retrain-command" else ["train", *(f"--from={ref}" for ref in self.inputs.values())]
        return Command([*words, *flags(settings)], launch, folder=self.folder)

    def _environment(self) -> None:
        values = {MARK: self.mark, "TMPDIR": str(self.temporary), "HF_HUB_OFFLINE": "1", "HF_HOME": str(self.folder / "hf")}
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        tempdir, tempfile.tempdir = tempfile.tempdir, str(self.temporary)
        logger = logging.getLogger("ts4s_core")
        level = logger.level
        logger.addHandler(self.log)
        logger.setLevel(logging.INFO)

        def restore() -> None:
            logger.removeHandler(self.log)
            logger.setLevel(level)
            tempfile.tempdir = tempdir
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})

        self._endings.callback(restore)

    def _prepare(self) -> dict[str, ArtifactRef]:
        """The dataset and the model that every run uses."""
        from ts4s_core.data.data_engine import LocalEngine
        from ts4s_core.data.prepare import prepare_dataset
        from ts4s_core.data.scan import scan
        from ts4s_core.models.import_step import import_model
        from ts4s_core.onnx.exporting.step import export_model

        self._inputs = {
            "model": {
                "source": f"config:{write_model(self.folder / 'base')}/config.json",
                "tokenizer": str(self.folder / "base"),
                "max_length": 24,
            },
            "data": {"source": str(write_rows(self.folder / "rows.tsv")), "format": "tsv"},
        }
        settings = Settings(name="inputs", **self._inputs, spark={"master": "none"}, storage=self.storage("processes"))
        store, engine = ArtifactStore.open(settings.storage), LocalEngine()
        found = scan(settings, engine)
        onnx = export_model(settings, store).ref
        data = prepare_dataset(settings, store, engine, scan=found, tokenizer_folder=store.local(onnx) / "tokenizer").ref
        model = import_model(settings, store, onnx_ref=onnx, classes=len(found.labels), label_names=found.labels).ref
        return {"dataset": data, "model": model}

    def _copy_inputs(self, target: Path) -> None:
        for kind in KINDS_OF_INPUTS:
            shutil.copytree(self.stores["folder"] / kind, target / kind)

    def _start_s3(self) -> None:
        before = set(marked(self.mark))
        folder = self.folder / "s3"
        server = self._endings.enter_context(self._s3(folder))
        self._infrastructure |= set(marked(self.mark)) - before
        self._bucket = server.settings(self.folder / "cache", bucket="faults")
        server.make_bucket("faults")
        self.stores["s3"] = folder / "faults" / "pre" / "fix"
        self._copy_inputs(self.stores["s3"])
        self.front = self._endings.enter_context(self._front(server.url))
