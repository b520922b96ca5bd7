"""One fit: rows to scratch storage, training in a barrier stage, the module back; nothing of it stays."""

from __future__ import annotations

import contextlib
import functools
import logging
import operator
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.tokenizers import StoredTokenizer
from ts4s_core.errors import DataError, SettingsError, Ts4sError
from ts4s_core.models.weights import read_weights
from ts4s_core.modules.carried import nameless_among
from ts4s_core.modules.inputs import InputForm
from ts4s_core.modules.job_module import check_device, make_module
from ts4s_core.modules.losses import ACTIVATIONS, FUNCTIONS_OF_CLASSES, OF_CLASSES, AnyLoss
from ts4s_core.modules.predicting import as_program, try_rows
from ts4s_core.modules.saved import WEIGHTS, SavedModule
from ts4s_core.modules.spec import Spec, paths_of
from ts4s_core.modules.trust import check_trusted, find
from ts4s_core.progress import silent
from ts4s_core.settings import Settings, StorageSettings
from ts4s_core.settings.load import problems_of
from ts4s_core.spark.execution.barrier_launcher import BarrierLauncher
from ts4s_core.spark.ml.carrying import Carrying, carried_along
from ts4s_core.spark.ml.columns import column_of, input_column, label_column, label_kind, settled_form, weight_column
from ts4s_core.spark.ml.param_names import with_param_names
from ts4s_core.spark.ml.params import FitParams
from ts4s_core.spark.ml.rows import RowSummary, few_rows, labels_of, layout_of, summarise, write_rows
from ts4s_core.spark.ml.scratch import begin_model, scratch
from ts4s_core.spark.ml.summary import epochs_of
from ts4s_core.spark.ml.texts import tokenizer_at
from ts4s_core.spark.session import cluster
from ts4s_core.spark.session.failures import as_error
from ts4s_core.spark.session.shipping import ship_code
from ts4s_core.training.driver.attempts import largest_divisor
from ts4s_core.training.driver.train_step import Factories, train
from ts4s_core.training.facts import TrainedFacts
from ts4s_core.training.optimizers.any_torch import averaged_decay, optimizer_maker

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from torch import nn

log = logging.getLogger(__name__)

#: Two barrier stages may each hold half the slots and wait for ever, as CrossValidator's parallel fits would.
_one_fit = threading.Lock()
_NO_END = 100_000
#: Tasks that encode rows: at least, and one more for so many rows.
LEAST_TASKS, ROWS_PER_TASK = 8, 4_096
FACTORIES = Factories(model="ts4s_core.modules.job_module:module_of_job", rows="ts4s_core.modules.table_rows:rows_of_table")
#: What a fitted model says of its training.
_FACTS = (
    "steps",
    "workers",
    "restarts",
    "seconds",
    "weights_sha256",
    "validation_loss",
    "best_step",
    "reproducible",
    "staleness",
)


@dataclass(frozen=True)
class Task:
    """What a fit trains.

    Attributes:
        start: the module and its first weights, if it has any.
        loss: description of the loss.
        optimizer: description of the optimizer.
    """

    start: SavedModule
    loss: Spec
    optimizer: Spec

    @property
    def paths(self) -> list[str]:
        """Every import path that workers need."""
        return [*self.start.paths, *paths_of(self.loss), *paths_of(self.optimizer)]


class Fit:
    """One call of ``TorchEstimator.fit``.

    Args:
        params: the estimator.
        task: what it trains.
    """

    def __init__(self, params: FitParams, task: Task) -> None:
        self._params = params
        self._task = task
        self._value = params.value
        self._sources: dict[str, str] = {}
        self._module: nn.Module | None = None
        self._pad_id = 0  # the tokenizer's
        # All are tried on the driver, before any row is read. The module is built on the workers, who take its word.
        check_trusted(task.paths)
        self._settings(StorageSettings())
        self._check_precision()
        AnyLoss(task.loss, weighted=bool(self._value("weightCol")))
        optimizer_maker(
            find(str(task.optimizer["factory"])), task.optimizer["arguments"], learning_rate=self._value("learningRate")
        )

    def run(self, frame: DataFrame) -> SavedModule:
        """The trained module.

        Raises:
            InputError: if the Params, the rows or the module cannot be used.
            TrainingError, SparkError: as training does.
        """
        named = str(self._value("tokenizer"))
        tokenizer, self._pad_id = tokenizer_at(named) if named else (None, 0)
        try:
            with _one_fit, scratch(str(self._value("scratchUri")), frame) as store:
                return self._run(frame, store, tokenizer)
        except Ts4sError as exc:
            exc.args = (with_param_names(str(exc)),)
            raise
        except Exception as exc:
            raise as_error(exc, what="TorchEstimator.fit") from exc

    def _run(self, frame: DataFrame, store: ArtifactStore, tokenizer: StoredTokenizer | None) -> SavedModule:
        check_device(self._value("device"), here=cluster.is_local(frame.sparkSession))
        kind = self._label(frame)
        self._sources = ship_code(frame.sparkSession, self._task.paths)
        form = self._form(frame, text=tokenizer is not None)
        if kind == "none" and (form.text or form.tokens):
            raise DataError("labelCol is empty: expected labels for texts and tokens, which are no labels. Set labelCol")
        with self._rows(frame, kind, form) as (rows, invalid):
            counted = 0 if form.text or form.tokens else len(self._params.input_columns())
            summary = summarise(rows, invalid, label=kind, widths=counted, alike=form.tokens)
            form = replace(form, widths=summary.widths)
            form.check()
            tried = self._try(rows, form, summary, tokenizer)
            fraction = 0.0 if self._value("validationIndicatorCol") else float(self._value("validationFraction"))
            layout = layout_of(
                summary,
                form=form,
                label=kind,
                validation_fraction=fraction,
                seed=self._value("seed"),
                tokenizer=tokenizer,
                weighted=bool(self._value("weightCol")),
            )
            # Fewer partitions than there are stay as they are; of a few rows each, starting their tasks would be all the work.
            together = rows.coalesce(LEAST_TASKS + summary.rows // ROWS_PER_TASK)
            dataset, counts = write_rows(together, store, layout=layout)
        if self._value("earlyStoppingPatience") and not counts["validation"]:
            raise DataError("There are no validation rows for early stopping: raise validationFraction")
        trained = self._train(frame, store, dataset, form=form, kind=kind, validates=bool(counts["validation"]))
        output = self._output(kind, summary)
        return replace(trained, output=output, labels=summary.labels, tokenizer=tokenizer, rows=tried)

    def _form(self, frame: DataFrame, *, text: bool) -> InputForm:
        """What forward gets of a row; the module is built here for it, as on every worker."""
        columns = self._params.input_columns()
        form = InputForm(
            text=text,
            separate=self._value("separateInputs"),
            shape=tuple(self._value("inputShape")),
            whole=self._value("wholeNumbers"),
            max_length=self._value("maxLength"),
            pad_id=self._params.padding(self._pad_id),
        )
        self._module = make_module(self._task.start, seed=self._value("seed")).eval()
        return settled_form(frame, form, self._module.forward, columns=columns, names=self._value("inputNames"), look=True)

    def _try(self, rows: DataFrame, form: InputForm, summary: RowSummary, tokenizer: StoredTokenizer | None) -> tuple[Any, ...]:
        """One forward over a few rows, and the loss of it: a worker would find out after a minute.

        Returns:
            the inputs of these rows.

        Raises:
            InputError: if one of them fails.
            UnsupportedModelError: if the module could not be saved: it has neither an import path nor a graph.
            DataError: on classes beyond the module's outputs, with the largest class and the number of outputs.
        """
        module, loss = self._module, self._task.loss
        assert module is not None
        self._module = None  # workers build their own
        few = few_rows(rows, form)
        inputs = [row["x"] for row in few]
        outputs = try_rows(module, form, inputs, tokenizer=tokenizer)
        classes = loss["factory"] in OF_CLASSES and summary.classes is not None
        if classes and outputs is not None and summary.classes is not None:
            self._check_classes(outputs, summary)
        labels = labels_of(few, summary)
        objective = AnyLoss(loss, weighted=bool(self._value("weightCol")))
        try_rows(module, form, inputs, tokenizer=tokenizer, objective=objective, labels=labels)
        start = replace(self._task.start, form=form, tokenizer=tokenizer, rows=tuple(inputs))
        if nameless_among(start.paths):
            as_program(start, learns=False)  # what is saved of it later: better told now than after training
        return start.rows

    def _check_classes(self, outputs: int, summary: RowSummary) -> None:
        loss, classes = AnyLoss(self._task.loss), summary.classes or 0
        if classes <= outputs or classes - 1 == loss.ignored:
            return
        last = summary.labels[-1] if summary.labels else str(classes - 1)
        way_out = "Number them from 0, as StringIndexer does, or give" if not summary.labels else "Give"
        raise DataError(
            f"Labels need {classes} outputs (the largest is {last!r}): the module has {outputs}. {way_out} the module's "
            f"last layer {classes}"
        )

    def _label(self, frame: DataFrame) -> str:
        """``none``, ``class``, ``text`` or ``vector``."""
        name = self._value("labelCol")
        if not name:
            return "none"
        kind = label_kind(frame, name)
        asked = self._value("labelKind")
        if kind != "number":
            if asked != "auto":
                raise SettingsError(f"labelKind {asked} says what a number is: labelCol {name} has a {kind}. Leave labelKind out")
            return kind
        if asked == "auto":
            asked = "class" if self._task.loss["factory"] in (*OF_CLASSES, *FUNCTIONS_OF_CLASSES) else "number"
        return "class" if asked == "class" else "vector"

    @contextlib.contextmanager
    def _rows(self, frame: DataFrame, kind: str, form: InputForm) -> Iterator[tuple[DataFrame, Column]]:
        """Columns x, y, v and widths of the rows to train on, computed once, and whether one of them has null."""
        from pyspark import StorageLevel
        from pyspark.sql import functions as F

        x, sizes = input_column(frame, self._params.input_columns(), text=form.text, whole=form.whole)
        columns = {"x": x}
        if kind != "none":
            columns["y"] = label_column(frame, self._value("labelCol"), kind=kind)
        indicator = self._value("validationIndicatorCol")
        if indicator:
            columns["v"] = column_of(frame, indicator)[0].cast("boolean")
        if self._value("weightCol"):
            columns["weight"] = weight_column(frame, self._value("weightCol"))
        chosen = frame.select(
            *(column.alias(name) for name, column in columns.items()), *(size.alias(f"w{at}") for at, size in enumerate(sizes))
        )
        chosen = chosen.persist(StorageLevel.MEMORY_AND_DISK)
        try:
            invalid = functools.reduce(operator.or_, (F.col(name).isNull() for name in columns))
            yield chosen.where(~invalid) if self._value("handleInvalid") == "skip" else chosen, invalid
        finally:
            chosen.unpersist()

    def _train(
        self,
        frame: DataFrame,
        store: ArtifactStore,
        dataset: ArtifactRef,
        *,
        form: InputForm,
        kind: str,
        validates: bool,
    ) -> SavedModule:
        task, value = self._task, self._value
        settings = self._settings(store.storage.settings)
        shards = settings.train.logical_shards
        workers = settings.train.workers or shards
        launcher = BarrierLauncher(
            lambda: frame.sparkSession,
            threads_per_worker=settings.train.threads_per_worker,
            workers=workers,
            work=Carrying(carried_along(task.paths)),
        )
        slots = launcher.slots()
        if not settings.train.workers and (taken := largest_divisor(shards, at_most=slots)) < slots:
            log.warning("workers 0 takes %d of %d slots, because logicalShards is %d: raise it to use more", taken, slots, shards)
        extra = {
            "module": task.start.spec,
            "loss": task.loss,
            "optimizer": task.optimizer,
            "device": value("device"),
            "form": form.to_json(),
            "labelled": kind != "none",
            "sources": self._sources,
            "weighted": bool(value("weightCol")),
            "validates": validates,
        }
        step = train(
            settings,
            store,
            launcher,
            dataset=dataset,
            model=begin_model(store, task.start),
            progress=_on_stderr if value("verbose") else silent,
            factories=replace(FACTORIES, extra=extra),
        )
        shown = TrainedFacts.of(step).shown()
        facts = {name: shown[name] for name in _FACTS if name in shown}
        facts["epochs"] = epochs_of(store.local_file(step.ref, "metrics.csv"))
        return replace(
            task.start,
            weights=read_weights(store.local_file(step.ref, WEIGHTS)),
            form=form,
            activation=self._activation(),
            facts=facts,
        )

    def _check_precision(self) -> None:
        """Refuse modules of doubles where strategies exchange FP32.

        Raises:
            SettingsError: naming the strategy.
        """
        double = any(array.dtype == "float64" for array in (self._task.start.weights or {}).values())
        if double and self._value("strategy") != "synchronous":
            raise SettingsError(
                f"strategy {self._value('strategy')} trains modules of single precision alone: this one has doubles. "
                "Use strategy synchronous, or module.float()"
            )

    def _settings(self, storage: StorageSettings) -> Settings:
        value = self._value
        # Without a number of epochs of its own, iterations decide.
        endless = value("maxIter") and not self._params.isSet(self._params.getParam("epochs"))
        train_settings = {
            "workers": value("workers"),
            "threads_per_worker": value("threadsPerWorker"),
            "logical_shards": value("logicalShards"),
            "batch_size": value("batchSize"),
            "epochs": _NO_END if endless else value("epochs"),
            "max_steps": value("maxIter"),
            "learning_rate": value("learningRate"),
            "weight_decay": averaged_decay(self._task.optimizer) if value("strategy") == "averaging" else 0.0,
            "warmup_fraction": 0.0,
            "max_grad_norm": value("maxGradNorm"),
            "seed": value("seed"),
            "strategy": value("strategy"),
            "averaging_frequency": value("averagingFrequency"),
            "early_stopping_patience": value("earlyStoppingPatience"),
            "checkpoint_every_steps": value("checkpointEverySteps"),
            "max_restarts": value("maxRestarts"),
            "timeout_s": value("timeoutSeconds"),
        }
        try:
            # The launcher knows the session's slots; spark.master is for sessions that ts4s starts.
            return Settings(name="fit", train=train_settings, storage=storage, spark={"master": "none"})  # type: ignore[arg-type]
        except ValidationError as exc:
            raise SettingsError(with_param_names("; ".join(problems_of(exc)))) from None

    def _output(self, kind: str, summary: RowSummary) -> str:
        if self._value("output") != "auto":
            return str(self._value("output"))
        if kind in ("class", "text"):
            return "class"
        loss = str(self._task.loss["factory"])
        if kind == "vector" and summary.label_width == 1:
            return "class" if ACTIVATIONS.get(loss) in ("sigmoid", "identity") else "value"
        return "class" if loss in OF_CLASSES else "vector"

    def _activation(self) -> str:
        if self._value("activation") != "auto":
            return str(self._value("activation"))
        return ACTIVATIONS.get(str(self._task.loss["factory"]), "none")


def _on_stderr(stage: str, fields: Any) -> None:
    shown = " ".join(f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}" for name, value in fields.items())
    sys.stderr.write(f"{stage} {shown}\n")
    sys.stderr.flush()
