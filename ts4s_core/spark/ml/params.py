"""The Spark ML Params of ``TorchEstimator`` and ``TorchModel``."""

# ruff: noqa: N802, N815
# Spark ML's Params and their setters are written in camel case, and its own tools look them up by these names.

from __future__ import annotations

import difflib
from typing import Any, TypeVar

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import (
    HasHandleInvalid,
    HasInputCol,
    HasInputCols,
    HasLabelCol,
    HasMaxIter,
    HasPredictionCol,
    HasProbabilityCol,
    HasRawPredictionCol,
    HasSeed,
    HasValidationIndicatorCol,
    HasWeightCol,
)

from ts4s_core.errors import SettingsError
from ts4s_core.spark.session.internals import owner_to_be

P = TypeVar("P", bound=Params)

OUTPUTS = ("auto", "class", "value", "vector")
ACTIVATIONS = ("auto", "softmax", "sigmoid", "exp", "identity", "none")
STRATEGIES = ("synchronous", "averaging", "hogwild")
LABEL_KINDS = ("auto", "class", "number")


def _param(name: str, doc: str, converter: Any = TypeConverters.identity) -> Any:
    return Param(owner_to_be(), name, doc, typeConverter=converter)


class KeywordParams(Params):
    """Params that are set by keyword, an unknown name being refused."""

    def _put(self, values: dict[str, Any]) -> None:
        for name in values:
            if not self.hasParam(name):
                near = difflib.get_close_matches(name, [param.name for param in self.params], 3)
                hint = f"did you mean {', '.join(near)}?" if near else "see the class's documentation"
                raise SettingsError(f"{type(self).__name__} has no parameter {name!r}: {hint}")
        for name, value in values.items():
            try:
                self._set(**{name: _settled(name, value)})
            except TypeError as exc:
                raise SettingsError(f"{type(self).__name__}: {exc}") from exc

    def setParams(self: P, **params: Any) -> P:
        """Set parameters by name, as the constructor does.

        Raises:
            SettingsError: on an unknown name or a value of the wrong type.
        """
        self._put(params)  # type: ignore[attr-defined]
        return self

    def value(self, name: str) -> Any:
        """The value of a parameter: its own, else its default."""
        return self.getOrDefault(self.getParam(name))


def _settled(name: str, value: Any) -> Any:
    """None leaves a column out."""
    return "" if value is None and name.endswith("Col") else value


class SharedParams(
    KeywordParams, HasInputCol, HasInputCols, HasPredictionCol, HasProbabilityCol, HasRawPredictionCol, HasHandleInvalid
):
    """Params of both.

    Beside Spark's own: ``inputCol`` (a vector, an array of numbers, a number, or with ``tokenizer`` a text), or ``inputCols``
    (several such: one argument of all their numbers in order, or an argument each: with ``separateInputs``, with ``inputNames``,
    or where forward's arguments have the columns' names; arrays of integers of unlike length are token ids, padded);
    ``predictionCol``,
    ``probabilityCol`` and ``rawPredictionCol`` (the last two of classes alone; "" or None: left out); ``handleInvalid``
    (``error``, ``skip`` or, in transform, ``keep``: a row with a null input gets a null prediction).
    """

    separateInputs: Param[bool] = _param(
        "separateInputs", "each of inputCols is an argument of forward of its own", TypeConverters.toBoolean
    )
    inputNames: Param[list[str]] = _param(
        "inputNames",
        "forward's argument name of each of inputCols, which are then arguments of their own; []: the columns' own names, where "
        "there are several and forward has them all",
        TypeConverters.toListString,
    )
    inputShape: Param[list[int]] = _param(
        "inputShape", "shape of one row's input, e.g. [1, 28, 28]; []: a vector", TypeConverters.toListInt
    )
    wholeNumbers: Param[bool] = _param(
        "wholeNumbers", "inputs are int64 (numbers of an embedding), not float32", TypeConverters.toBoolean
    )
    tokenizer: Param[str] = _param(
        "tokenizer",
        "for a text column: a folder with a tokenizer, whose whole configuration is read, or a file tokenizer.json alone",
        TypeConverters.toString,
    )
    maxLength: Param[int] = _param("maxLength", "tokens that a text is cut to", TypeConverters.toInt)
    padId: Param[int] = _param(
        "padId", "token number that texts and tokens are filled up with; not set: the tokenizer's own, or 0", TypeConverters.toInt
    )
    predictedLabelCol: Param[str] = _param(
        "predictedLabelCol", "column of the label strings, if the model has any; '': none", TypeConverters.toString
    )
    output: Param[str] = _param(
        "output",
        "what the module's output is: class (a number for each), value (one number), vector (prediction is a vector), "
        "auto (as the loss and the label say)",
        TypeConverters.toString,
    )
    activation: Param[str] = _param(
        "activation",
        "what makes probabilities of the output: softmax, sigmoid, exp, identity, none, auto",
        TypeConverters.toString,
    )
    predictBatchSize: Param[int] = _param(
        "predictBatchSize", "rows that the module gets at once in transform", TypeConverters.toInt
    )
    device: Param[str] = _param("device", "cpu, cuda or cuda:N", TypeConverters.toString)
    threadsPerWorker: Param[int] = _param("threadsPerWorker", "threads of a worker", TypeConverters.toInt)

    def _shared_defaults(self) -> None:
        self._setDefault(
            inputCol="features",
            handleInvalid="error",
            separateInputs=False,
            inputNames=[],
            inputShape=[],
            wholeNumbers=False,
            tokenizer="",
            maxLength=128,
            padId=0,
            predictedLabelCol="predictedLabel",
            output="auto",
            activation="auto",
            predictBatchSize=256,
            device="cpu",
            threadsPerWorker=1,
        )

    def input_columns(self) -> list[str]:
        """The columns that inputs come from."""
        return list(self.getInputCols()) if self.isSet(self.inputCols) else [self.getInputCol()]

    def padding(self, own: int) -> int:
        """``padId``, or where it is not set the tokenizer's own."""
        return int(self.value("padId")) if self.isSet(self.padId) else own

    def check_shared(self) -> None:
        """Refuse values that are out of bounds.

        Raises:
            SettingsError: naming all of them.
        """
        _refuse(
            {
                "handleInvalid": (self.value("handleInvalid"), ("error", "skip", "keep")),
                "output": (self.value("output"), OUTPUTS),
                "activation": (self.value("activation"), ACTIVATIONS),
            },
            {name: (self.value(name), 1) for name in ("maxLength", "predictBatchSize", "threadsPerWorker")},
        )


class FitParams(SharedParams, HasLabelCol, HasMaxIter, HasSeed, HasValidationIndicatorCol, HasWeightCol):
    """Params of the estimator alone.

    Beside Spark's own: ``labelCol`` (a class number, a number, a string, or a vector; "" or None: the input is its own label),
    ``maxIter`` (iterations; 0: epochs decide), ``seed``, ``validationIndicatorCol`` (a boolean column, instead of
    ``validationFraction``), ``weightCol`` (a number from 0: how much a row counts in the mean that is minimised; "": all alike).
    """

    module: Param[Any] = _param(
        "module", "what is trained: a torch.nn.Module, its class or a function, 'module:name', or a file.onnx"
    )
    moduleArgs: Param[dict[str, Any]] = _param("moduleArgs", "keyword arguments of the class or function, built on the workers")
    loss: Param[Any] = _param("loss", "name of a loss in torch.nn, a loss object, 'module:name', or a function (output, target)")
    lossArgs: Param[dict[str, Any]] = _param("lossArgs", "keyword arguments of the loss")
    labelKind: Param[str] = _param(
        "labelKind",
        "what a number in labelCol is: class (the loss gets whole numbers, one a row), number, auto (a class for the losses of "
        "torch.nn that compare with classes, else a number)",
        TypeConverters.toString,
    )
    optimizer: Param[Any] = _param("optimizer", "name of an optimizer in torch.optim, its class, or 'module:name'")
    optimizerArgs: Param[dict[str, Any]] = _param("optimizerArgs", "keyword arguments of the optimizer, without lr")
    learningRate: Param[float] = _param("learningRate", "the optimizer's lr", TypeConverters.toFloat)
    epochs: Param[int] = _param("epochs", "passes over the training rows", TypeConverters.toInt)
    batchSize: Param[int] = _param("batchSize", "rows of a global mini-batch", TypeConverters.toInt)
    validationFraction: Param[float] = _param(
        "validationFraction", "share of the rows whose loss is measured after each epoch, not trained on", TypeConverters.toFloat
    )
    earlyStoppingPatience: Param[int] = _param(
        "earlyStoppingPatience", "stop after this many epochs without a better validation loss; 0: never", TypeConverters.toInt
    )
    maxGradNorm: Param[float] = _param("maxGradNorm", "clip the gradient's norm to this; 0: no clipping", TypeConverters.toFloat)
    workers: Param[int] = _param(
        "workers", "training workers, Spark tasks that run together; 0: as many as there are slots", TypeConverters.toInt
    )
    logicalShards: Param[int] = _param(
        "logicalShards", "parts of a mini-batch, a power of two; it fixes the weights, workers do not", TypeConverters.toInt
    )
    strategy: Param[str] = _param("strategy", "synchronous, averaging or hogwild", TypeConverters.toString)
    averagingFrequency: Param[int] = _param(
        "averagingFrequency", "steps between averages (strategy averaging); 0: once an epoch", TypeConverters.toInt
    )
    verbose: Param[int] = _param("verbose", "1: progress on standard error", TypeConverters.toInt)
    scratchUri: Param[str] = _param(
        "scratchUri",
        "folder or fsspec URL that driver and executors all reach, for the rows and checkpoints of a fit, deleted when it ends; "
        "'': a temporary folder, which serves local masters alone",
        TypeConverters.toString,
    )
    checkpointEverySteps: Param[int] = _param(
        "checkpointEverySteps", "steps between checkpoints, from which a failed attempt goes on", TypeConverters.toInt
    )
    maxRestarts: Param[int] = _param("maxRestarts", "times a failed training attempt is resumed", TypeConverters.toInt)
    timeoutSeconds: Param[float] = _param("timeoutSeconds", "longest silence of a worker", TypeConverters.toFloat)

    def _fit_defaults(self) -> None:
        self._shared_defaults()
        self._setDefault(
            labelCol="label",
            validationIndicatorCol="",
            weightCol="",
            labelKind="auto",
            module=None,
            moduleArgs={},
            loss="CrossEntropyLoss",
            lossArgs={},
            optimizer="Adam",
            optimizerArgs={},
            learningRate=1e-3,
            maxIter=0,
            epochs=10,
            batchSize=32,
            validationFraction=0.0,
            earlyStoppingPatience=0,
            maxGradNorm=0.0,
            workers=0,
            logicalShards=4,
            seed=0,
            strategy="synchronous",
            averagingFrequency=0,
            verbose=0,
            scratchUri="",
            checkpointEverySteps=500,
            maxRestarts=3,
            timeoutSeconds=120.0,
        )

    def check_fit(self) -> None:
        """Refuse values that are out of bounds, or contradict each other, before anything starts.

        Raises:
            SettingsError: naming all of them.
        """
        self.check_shared()
        least = dict.fromkeys(("epochs", "batchSize", "logicalShards", "checkpointEverySteps"), 1)
        least |= dict.fromkeys(
            ("maxIter", "workers", "earlyStoppingPatience", "averagingFrequency", "maxRestarts", "validationFraction"), 0
        )
        _refuse(
            {"strategy": (self.value("strategy"), STRATEGIES), "labelKind": (self.value("labelKind"), LABEL_KINDS)},
            {name: (self.value(name), low) for name, low in least.items()},
        )
        if self.value("validationFraction") >= 1:
            raise SettingsError(f"validationFraction {self.value('validationFraction')} leaves no training rows: use less than 1")
        if self.value("earlyStoppingPatience") and not (self.value("validationFraction") or self.value("validationIndicatorCol")):
            raise SettingsError(
                "earlyStoppingPatience needs validation rows: set validationFraction (0.1, say) or validationIndicatorCol"
            )


def _refuse(choices: dict[str, tuple[Any, tuple[str, ...]]], least: dict[str, tuple[Any, float]]) -> None:
    problems = [
        f"{name} {value!r} is not valid: expected one of {', '.join(known)}"
        for name, (value, known) in choices.items()
        if value not in known
    ]
    problems += [f"{name} {value} is below {low}" for name, (value, low) in least.items() if value < low]
    if problems:
        raise SettingsError("; ".join(problems))


def add_setters(cls: type[KeywordParams]) -> type[KeywordParams]:
    """Give a class ``setName`` and ``getName`` for each of its Params that has none, as Spark's own classes have."""
    for name in {name for name in dir(cls) if isinstance(getattr(cls, name, None), Param)}:
        title = name[0].upper() + name[1:]

        def setter(self: KeywordParams, value: Any, _name: str = name) -> KeywordParams:
            self._put({_name: value})
            return self

        def getter(self: KeywordParams, _name: str = name) -> Any:
            return self.value(_name)

        for prefix, method in (("set", setter), ("get", getter)):
            if not hasattr(cls, prefix + title):
                method.__name__ = prefix + title
                method.__doc__ = f"{prefix.title()} {name}."
                setattr(cls, prefix + title, method)
    return cls
