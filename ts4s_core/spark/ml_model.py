"""``TorchModel``: a PyTorch module as a transformer of Spark ML."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.ml import Model, PipelineModel
from pyspark.ml.util import DefaultParamsReader, MLReadable, MLReader, MLWritable, MLWriter

from ts4s_core.errors import DataError, SettingsError, UnsupportedModelError
from ts4s_core.modules.carried import nameless_among, receive
from ts4s_core.modules.inputs import InputForm, named_arguments
from ts4s_core.modules.job_module import check_device, in_turn, make_module, saved_module
from ts4s_core.modules.predicting import STRUCT, Predictor, as_program, input_of, try_rows
from ts4s_core.modules.saved import FILES, MODEL, SavedModule
from ts4s_core.modules.sources import renew
from ts4s_core.modules.trust import CONF, check_trusted, trust
from ts4s_core.spark.ml.carrying import carried_along
from ts4s_core.spark.ml.columns import OR_INVALID, input_column, settled_form
from ts4s_core.spark.ml.files import StageWriter, needed, read_files, read_metadata
from ts4s_core.spark.ml.params import SharedParams, add_setters
from ts4s_core.spark.ml.summary import TrainingSummary
from ts4s_core.spark.ml.texts import tokenizer_at
from ts4s_core.spark.session import cluster
from ts4s_core.spark.session.column_names import alike
from ts4s_core.spark.session.internals import give_uid
from ts4s_core.spark.session.shipping import ship_code
from ts4s_core.spark.session.versions import arrow_function

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession
    from torch import nn

_TYPE = "struct<prediction:double,raw:array<double>,probability:array<double>>"
_SCORES = "__ts4s_scores"


@add_setters
class TorchModel(Model, SharedParams, MLReadable["TorchModel"], MLWritable):
    """A PyTorch module that adds predictions to a DataFrame.

    What ``TorchEstimator.fit`` gives; a module that was trained elsewhere becomes one by :meth:`from_torch`. It is saved
    and loaded as any stage of Spark's (``save``, ``write().overwrite().save``, ``TorchModel.load``, within a
    ``PipelineModel`` or a ``CrossValidatorModel``). A saved one holds safetensors, JSON and perhaps an ONNX graph, never
    code: the import path of its class has to be trusted where it is loaded (:func:`ts4s_core.spark.trust`), unless it is
    made of ``torch.nn`` alone.

    Columns, for ``output``:
        class: ``predictionCol`` the class number (double), ``rawPredictionCol`` and ``probabilityCol`` vectors, and
            ``predictedLabelCol`` if the model was fitted on label strings.
        value: ``predictionCol`` the number (double). A module of :meth:`from_torch` that gives one number is one such, unless
            ``output``, ``activation`` or labels say that the number stands for a class.
        vector: ``predictionCol`` a vector.

    Attributes:
        saved: the module with all that it needs.
    """

    def __init__(self, saved: SavedModule | None = None, **params: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._shared_defaults()
        self.saved = saved
        self._payload: Any = None
        self._tried: tuple[SavedModule | None, str] | None = None
        #: The module as a table or a fit showed its inputs, of which its graph is found.
        self._seen: SavedModule | None = None
        #: The estimator that fitted it; None for a model that was loaded, or trained elsewhere.
        self.parent: Any = None
        self._put(params)

    @classmethod
    def from_torch(cls, module: nn.Module, *, labels: Sequence[str] = (), **params: Any) -> TorchModel:
        """A module that is trained already, as a stage.

        Args:
            module: any; see :mod:`ts4s_core.modules.state`.
            labels: label strings by class number.
            params: Params by name.

        Raises:
            UnsupportedModelError: naming what of it cannot be described.
            SettingsError: on a Param that is not there.
            SourceError: if the Param ``tokenizer`` names none.
        """
        output = "class" if labels else "auto"
        saved = replace(saved_module(module), output=output, labels=tuple(labels))
        if params.get("tokenizer"):
            tokenizer, pad_id = tokenizer_at(str(params["tokenizer"]))
            saved, params = replace(saved, tokenizer=tokenizer), {"padId": pad_id, **params}
        return cls(saved, **params)

    def to_torch(self) -> nn.Module:
        """The plain PyTorch module, in eval mode, with its weights: a copy."""
        return make_module(self._whole()).eval()

    def attach_to(self, pipeline: PipelineModel) -> PipelineModel:
        """A pipeline with this stage at its end."""
        return PipelineModel([*pipeline.stages, self])

    @property
    def weights_sha256(self) -> str:
        """Hash of all weights and buffers: equal for equal bits."""
        return self._whole().weights_sha256()

    @property
    def labels(self) -> tuple[str, ...]:
        """Label strings by class number, if labels were strings."""
        return self._whole().labels

    @property
    def facts(self) -> dict[str, Any]:
        """How it was trained: steps, restarts, weights_sha256 of the trained tensors, validation_loss, ..."""
        return self._whole().facts

    @property
    def hasSummary(self) -> bool:  # noqa: N802 - Spark's name
        """Whether it was fitted, and so has a history."""
        return "epochs" in self._whole().facts

    @property
    def summary(self) -> TrainingSummary:
        """Loss, validation loss and learning rate by epoch.

        Raises:
            SettingsError: if it was not fitted.
        """
        if not self.hasSummary:
            raise SettingsError("TorchModel has no training summary: expected one that TorchEstimator.fit gave, this one was not")
        return TrainingSummary.of(self.facts)

    def udf(self) -> Any:
        """The model as a function for Spark SQL: ``session.udf.register("predict", model.udf())``.

        Its arguments are as ``inputCols``, in their order: arrays of numbers or numbers, or with a tokenizer a text; or one array
        of all numbers of a row. It gives a struct of ``prediction`` (double), ``raw`` and ``probability`` (arrays). Invalid
        input, as in ``transform``, gives null, or fails with ``handleInvalid`` ``error``; a function cannot ``skip``.

        Raises:
            SettingsError: where no session runs, or forward has no argument of a name.
        """
        from pyspark.sql import SparkSession

        self.check_shared()
        saved = self._settled()
        session = SparkSession.getActiveSession()
        if session is None:
            raise SettingsError("TorchModel.udf needs a Spark session: start one first")
        if saved.output == "auto":
            raise SettingsError("output of this module is not known before a row is tried: set output to class, value or vector")
        check_trusted(saved.paths, also=trusted_by(session))
        sources = ship_code(session, saved.paths)
        form = self._with_params(saved.form or InputForm(text=bool(saved.tokenizer)))
        columns, names = self.input_columns(), self.value("inputNames")
        if saved.form is None and not form.text and (names or not form.separate):
            form = replace(form, names=named_arguments(make_module(saved).forward, columns, given=names))
        return arrow_function(self._server(session, saved, form, sources, given=len(columns)), _TYPE)

    def _with_params(self, form: InputForm) -> InputForm:
        """A form as the Params say."""
        return replace(
            form,
            separate=self.value("separateInputs"),
            shape=tuple(self.value("inputShape")),
            whole=self.value("wholeNumbers") or bool(form.tokens),
            max_length=self.value("maxLength"),
            pad_id=self.padding(form.pad_id),
        )

    def write(self) -> MLWriter:
        """Spark's writer of this stage: its Params, and the module's files beside them.

        Raises:
            UnsupportedModelError: if its class has no import path, and the module has no graph, or has seen no row yet.
        """
        saved = self._whole()
        alone = nameless_among(saved.paths)
        if alone:
            seen = saved if saved.rows else self._seen
            if seen is None:
                raise UnsupportedModelError(
                    f"{alone} cannot be saved yet: it is of this program alone, so that its graph is what is saved, "
                    "which takes a row to find. Transform a table with it before"
                )
            saved = as_program(replace(saved, form=seen.form, rows=seen.rows, tokenizer=seen.tokenizer), learns=True)
        return StageWriter(self, saved.to_files())

    @classmethod
    def read(cls) -> MLReader[TorchModel]:
        """Spark's reader of such stages."""
        return _Reader()

    def show(self, seen: SavedModule) -> None:
        """Keep what a table or a fit showed of this module's inputs."""
        self._seen = seen if seen.rows else self._seen

    def _whole(self) -> SavedModule:
        if self.saved is None:
            raise SettingsError("TorchModel has no module: expected one from TorchEstimator.fit, from_torch or load")
        return self.saved

    def _settled(self) -> SavedModule:
        """The module with its outputs as the Params say, where they say."""
        saved, output, activation = self._whole(), self.value("output"), self.value("activation")
        saved = replace(saved, output=output) if output != "auto" else saved
        return replace(saved, activation=activation) if activation != "auto" else saved

    def _transform(self, dataset: DataFrame) -> DataFrame:
        from pyspark.sql import functions as F

        self.check_shared()
        check_device(self.value("device"), here=cluster.is_local(dataset.sparkSession))
        saved = self._settled()
        text, invalid = bool(saved.tokenizer), self.value("handleInvalid")
        columns = self.input_columns()
        session = dataset.sparkSession
        check_trusted(saved.paths, also=trusted_by(session))
        sources = ship_code(session, saved.paths)
        form = self._form(dataset, saved, columns)
        x, _sizes = input_column(dataset, columns, text=text, whole=form.whole)
        if saved.output == "auto":
            saved = replace(saved, output=self._output_by_trial(dataset.select(x.alias("x")), saved, form))
        if nameless_among(saved.paths) and not (saved.rows or self._seen or dataset.isStreaming):
            few = dataset.select(x.alias("x")).where("x is not null").take(2)
            self.show(replace(saved, form=form, rows=tuple(row["x"] for row in few)))
        server = self._server(session, saved, form, sources)
        serve = arrow_function(server, _TYPE)
        rows = dataset.where(x.isNotNull()) if invalid == "skip" else dataset
        scored = rows.withColumn(_SCORES, serve(x))
        made = self._outputs(saved, F.col(_SCORES))
        taken = sorted(column for name in made for column in alike(session, dataset.columns, name))
        if taken:
            raise DataError(f"Column {taken[0]} exists already: give predictionCol and the others names of their own")
        return scored.withColumns(made).drop(_SCORES)

    def _form(self, dataset: DataFrame, saved: SavedModule, columns: list[str]) -> InputForm:
        known = saved.form or InputForm(text=bool(saved.tokenizer))
        form = self._with_params(known)
        if saved.form is None:
            forward = make_module(saved).forward
            form = settled_form(dataset, form, forward, columns=columns, names=self.value("inputNames"), look=False)
        if (form.separate or form.names) and not (form.widths or form.tokens or form.text):
            _x, sizes = input_column(dataset, columns, text=False, whole=form.whole)
            first = dataset.select(*sizes).first()
            form = replace(form, widths=tuple(first) if first is not None else ())
        if form.widths:
            form.check()
        return form

    def _output_by_trial(self, inputs: DataFrame, saved: SavedModule, form: InputForm) -> str:
        """``value`` if a module from elsewhere gives one number for a row, and nothing says that it is a class; else ``class``.

        Raises:
            SettingsError: on a stream, of which no row can be tried.
        """
        if self.value("activation") != "auto":
            return "class"
        if self._tried is None or self._tried[0] is not self.saved:
            if inputs.isStreaming:
                raise SettingsError(
                    "output of this module is not known before a row is tried: set output to class, value or vector"
                )
            rows = [row["x"] for row in inputs.where("x is not null").take(1)]
            if not rows:
                return "class"
            width = try_rows(make_module(saved).eval(), form, rows, tokenizer=saved.tokenizer)
            self._tried = (self.saved, "value" if width in (1, None) else "class")
        return self._tried[1]

    def _server(
        self, session: SparkSession, saved: SavedModule, form: InputForm, sources: dict[str, str], *, given: int = 0
    ) -> Any:
        """The function that executors run on batches of inputs; ``given``: of so many columns, invalid values among them."""
        files = self._broadcast(session, saved)
        options = {
            "batch_size": self.value("predictBatchSize"),
            "device": self.value("device"),
            "threads": self.value("threadsPerWorker"),
        }
        along = carried_along(saved.paths)
        state = f"{_digest(files.value)} {saved.output} {saved.activation} {form} {options} {sources} {along.sha256}"
        key = hashlib.sha256(state.encode()).hexdigest()
        refuse, paths = self.value("handleInvalid") == "error", saved.paths

        from pyspark import TaskContext

        def serve(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
            renew(sources)
            receive(along.things)
            trust(*paths)  # the driver checked them
            context = TaskContext.get()
            device = in_turn(options["device"], context.partitionId() if context is not None else 0)
            fit = form
            for columns in batches:
                batch = columns
                if given and not form.text:
                    batch, fit = input_of(columns, form, columns=given)
                predictor = Predictor.cached(
                    f"{key} {device} {fit.widths}", files.value, form=fit, **{**options, "device": device}
                )
                if refuse and batch.null_count:
                    raise DataError(
                        f"{batch.null_count} of {len(batch)} rows have null in their input ({OR_INVALID}): expected none. "
                        "Set handleInvalid to skip (leave them out) or keep (give them a null prediction)"
                    )
                yield predictor.predict(batch) if len(batch) else pa.array([], STRUCT)

        return serve

    def _broadcast(self, session: SparkSession, saved: SavedModule) -> Any:
        """The module's files on every executor; sent once an application."""
        state = (cluster.application_of(session), saved.output, saved.activation)
        if self._payload is None or self._payload[0] != state or self._payload[1] is not self.saved:
            self._payload = (state, self.saved, cluster.broadcast(session, saved.to_files()))
        return self._payload[2]

    def _outputs(self, saved: SavedModule, scores: Column) -> dict[str, Column]:
        from pyspark.ml.functions import array_to_vector
        from pyspark.sql import functions as F

        def vector(name: str) -> Column:
            # The function does not take null.
            return F.when(scores[name].isNotNull(), array_to_vector(scores[name]))

        prediction = self.getPredictionCol()
        if saved.output == "vector":
            made = {prediction: vector("raw"), self.getProbabilityCol(): vector("probability")}
            if saved.activation in ("none", "softmax") or not self.isSet(self.probabilityCol):
                del made[self.getProbabilityCol()]
            return {name: column for name, column in made.items() if name}
        made = {prediction: scores["prediction"]}
        if saved.output == "class":
            made[self.getRawPredictionCol()] = vector("raw")
            if saved.activation != "none":
                made[self.getProbabilityCol()] = vector("probability")
            if saved.labels:
                names = F.array(*(F.lit(label) for label in saved.labels))
                made[self.value("predictedLabelCol")] = F.get(names, scores["prediction"].cast("int"))
        return {name: column for name, column in made.items() if name}


def _digest(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return digest.hexdigest()


def trusted_by(session: SparkSession) -> list[str]:
    """Names that the session's configuration trusts."""
    return [name.strip() for name in str(session.conf.get(CONF, "")).split(",") if name.strip()]


class _Reader(MLReader[TorchModel]):
    """Reads what :class:`StageWriter` wrote; nothing is imported that is not trusted."""

    def load(self, path: str) -> TorchModel:
        session = self.sparkSession
        metadata = read_metadata(session, path)
        files = read_files(session, path, FILES)
        needed(files, MODEL, path)
        saved = SavedModule.from_files(files, where=path)
        check_trusted(saved.paths, also=trusted_by(session))
        trust(*saved.paths)
        model = TorchModel(saved)
        give_uid(model, metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model
