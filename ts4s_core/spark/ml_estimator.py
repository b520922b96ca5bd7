"""``TorchEstimator``: any PyTorch module trained on a DataFrame, as an estimator of Spark ML."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.ml import Estimator
from pyspark.ml.util import DefaultParamsReader, MLReadable, MLReader, MLWritable, MLWriter

from ts4s_core.errors import SettingsError, SourceError, UnsupportedModelError
from ts4s_core.modules.carried import is_nameless, nameless_among
from ts4s_core.modules.job_module import saved_module
from ts4s_core.modules.losses import loss_spec
from ts4s_core.modules.predicting import as_program
from ts4s_core.modules.saved import FILES, MODEL, SavedModule
from ts4s_core.modules.spec import Spec, build, paths_of, spec_of_call
from ts4s_core.modules.trust import check_trusted, import_path, trust
from ts4s_core.spark.ml.files import StageWriter, read_files, read_metadata
from ts4s_core.spark.ml.fit import Fit, Task
from ts4s_core.spark.ml.params import FitParams, add_setters
from ts4s_core.spark.ml_model import TorchModel, trusted_by
from ts4s_core.spark.session.internals import give_uid

if TYPE_CHECKING:
    from pyspark.ml.param import Param
    from pyspark.sql import DataFrame


@add_setters
class TorchEstimator(Estimator[TorchModel], FitParams, MLReadable["TorchEstimator"], MLWritable):
    """Trains any PyTorch module on a DataFrame with the engine of ``ts4s train``, in one barrier stage.

    With ``strategy`` ``synchronous`` the weights are the same, bit for bit, for any number of workers, and for any order
    and partitioning of the rows.

    The module is an object (its weights are where training starts), a class or function, or an import path ``module:name``
    (with ``moduleArgs``, built on the workers), or an ONNX file. Classes and functions of the program itself, of a notebook or
    of another function go to workers within the task, as Spark sends any function; the program is not imported again.

    Example:
        >>> network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        >>> estimator = TorchEstimator(module=network, loss="CrossEntropyLoss", optimizer="Adam", epochs=20, workers=2)
        >>> model = Pipeline(stages=[VectorAssembler(inputCols=pixels, outputCol="features"), estimator]).fit(table)
        >>> model.transform(table).select("prediction", "probability")

    See :mod:`ts4s_core.spark.ml.params` for every Param.
    """

    def __init__(self, **params: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fit_defaults()
        self._given = SavedModule({}, None)  # of a module that is an object or a graph: all but its description
        self._fitted: dict[str, SavedModule] = {}  # what a fit of this estimator, or of a copy of it, saw
        self._put(params)

    def write(self) -> MLWriter:
        """Spark's writer of this stage: its Params, and the module's first weights beside them.

        Raises:
            UnsupportedModelError: if a class has no import path, and is no module's with a graph in training.
        """
        stage, given = self, self._given
        if nameless_among(_paths({"module": self.value("module")})):
            given = self._as_program()
            stage = self.copy()
            stage._set(module=given.spec, moduleArgs={})
        alone = nameless_among(_paths({name: self.value(name) for name in ("loss", "optimizer")}))
        if alone:
            raise UnsupportedModelError(
                f"{alone} cannot be saved with the estimator: it is of this program alone, and code is never saved. Put it "
                "into a .py file of its own and import it, or save the fitted model, which goes without it"
            )
        files = given.to_files()
        del files[MODEL]
        return StageWriter(stage, files)

    def _as_program(self) -> SavedModule:
        """What training starts from as a graph, of which a fit showed the inputs.

        Raises:
            UnsupportedModelError: if there was none, or the graph does not train as the module does.
        """
        start, seen = self.start(), self._fitted.get("seen")
        name = nameless_among(start.paths)
        if seen is not None:
            found = as_program(replace(start, form=seen.form, rows=seen.rows, tokenizer=seen.tokenizer), learns=True)
            if "train" in found.spec["program"]:
                return replace(found, form=None, rows=(), tokenizer=None)
        reason = "its inputs are known after a fit" if seen is None else "its graph gives something else in training"
        raise UnsupportedModelError(
            f"{name} cannot be saved with the estimator: it is of this program alone, so that its graph would be saved, and "
            f"{reason}. Put it into a .py file of its own and import it, or save the fitted model"
        )

    @classmethod
    def read(cls) -> MLReader[TorchEstimator]:
        """Spark's reader of such stages."""
        return _Reader()

    def start(self) -> SavedModule:
        """What training starts from.

        Raises:
            SettingsError: if no module was given.
            UnsupportedModelError: if it cannot be kept without pickling it.
        """
        given = self.value("module")
        if not isinstance(given, (dict, str)) or str(given).endswith(".onnx"):  # a value of a parameter grid
            self._put({"module": given})
            given = self.value("module")
        if isinstance(given, str):
            spec: Spec = spec_of_call(given, self.value("moduleArgs"))
            if is_nameless(given):  # what it makes has a name, more often than not
                return saved_module(build(spec, seed=self.value("seed")))
        elif self.value("moduleArgs"):
            raise SettingsError("moduleArgs have no meaning with a module that is built already: give its class as module")
        else:
            spec = given
        return replace(self._given, spec=spec)

    def _put(self, values: dict[str, Any]) -> None:
        """Set Params; modules, losses and optimizers as descriptions, which Spark can save."""
        values = dict(values)
        if "module" in values and not isinstance(values["module"], dict):
            values["module"] = self._described(values["module"])
        if isinstance(values.get("optimizer"), functools.partial):
            values |= self._of_partial(values["optimizer"], values)
        for name in ("loss", "optimizer"):
            if isinstance(values.get(name), TorchEstimator):  # of a grid, see copy
                values[name] = values[name].value(name)
            if name in values and not isinstance(values[name], (str, dict)):
                values[name] = _named(values[name])
        trust(*_paths(values))  # the program's own words; those of a saved stage do not come by this way
        super()._put(values)

    def _of_partial(self, given: functools.partial[Any], beside: Mapping[str, Any]) -> dict[str, Any]:
        """The Params that ``functools.partial`` of an optimizer stands for.

        Raises:
            SettingsError: if another Param says otherwise, or it holds arguments by place.
        """
        keywords = dict(given.keywords)
        if given.args:
            raise SettingsError("optimizer is a functools.partial with arguments by place: give them by name")
        found: dict[str, Any] = {"optimizer": given.func}
        if "lr" in keywords:
            found["learningRate"] = float(keywords.pop("lr"))
        found["optimizerArgs"] = keywords
        for name, value in found.items():
            known = beside[name] if name in beside else self.value(name) if self.isSet(self.getParam(name)) else value
            if name != "optimizer" and known not in (value, {}):
                raise SettingsError(f"{name} is {known} and {value} by the optimizer's functools.partial: give it once")
        return found

    def _described(self, module: Any) -> Any:
        from torch import nn

        self._given = SavedModule({}, None)
        if module is None:
            raise SettingsError("module is None: give a torch.nn.Module, its class or a function, 'module:name', or a file.onnx")
        if isinstance(module, TorchModel):
            self._given = module._whole()
            return self._given.spec
        if isinstance(module, nn.Module):
            self._given = saved_module(module)
            return self._given.spec
        if isinstance(module, (str, Path)) and str(module).endswith(".onnx"):
            try:
                self._given = SavedModule({}, None, graph=Path(module).read_bytes())
            except OSError as exc:
                raise SourceError(f"module {module} cannot be read: {exc}") from exc
            return {"onnx": True}
        path = module if isinstance(module, str) else import_path(module)
        if ":" not in path:
            raise SettingsError(f"module {path!r} is neither module:name nor a file.onnx")
        return path

    def _fit(self, dataset: DataFrame) -> TorchModel:
        self.check_fit()
        given, start = self.value("module"), self.start()
        for name in ("loss", "optimizer"):  # what a parameter grid holds
            if not isinstance(self.value(name), (dict, str)):
                self._put({name: self.value(name)})
        loss, optimizer = self.value("loss"), self.value("optimizer")
        task = Task(
            start=start,
            loss=loss if isinstance(loss, dict) else loss_spec(loss, self.value("lossArgs")),
            optimizer=spec_of_call(_optimizer_path(optimizer), self.value("optimizerArgs")),
        )
        model = TorchModel(Fit(self, task).run(dataset))
        self._fitted["seen"] = model._whole()
        if isinstance(given, TorchModel):
            given.show(model._whole())
        self._copyValues(model)
        give_uid(model, self.uid)
        model.parent = self
        return model

    def copy(self, extra: dict[Param[Any], Any] | None = None) -> TorchEstimator:
        """A copy with the values of a param map, in which objects become what can be saved: a tuned model's grid is.

        A module becomes a :class:`TorchModel`, a loss a description, an optimizer class its import path; a loss or an optimizer
        that is of this program alone becomes an estimator that has it, which says so where it is saved.
        """
        for param in [param for param in extra or {} if param.parent == self.uid and param.name in _OBJECTS]:
            self._make_savable(extra or {}, param)
        return super().copy(extra)

    def _make_savable(self, values: dict[Param[Any], Any], param: Param[Any]) -> None:
        """Put what Spark's writers of tuned models take, a stage or JSON, in the place of one value of a param map."""
        from torch import nn

        given = values[param]
        if isinstance(given, (str, dict, TorchModel, TorchEstimator)):
            return
        if isinstance(given, functools.partial) and param.name == "optimizer":
            beside = {other.name: value for other, value in values.items() if other.parent == self.uid}
            values |= {self.getParam(name): value for name, value in self._of_partial(given, beside).items()}
            given = values[param]
        if param.name != "module":
            found = _named(given)
            alone = nameless_among(_paths({param.name: found}))
            values[param] = TorchEstimator(**{param.name: found}) if alone else found
        elif isinstance(given, nn.Module):
            values[param] = TorchModel.from_torch(given)
        elif isinstance(given, Path):
            values[param] = str(given)
        elif is_nameless(path := import_path(given)):  # what it makes can be saved
            values[param] = path
            values |= {param: TorchModel(super().copy(values).start()), self.moduleArgs: {}}
        else:
            values[param] = path


_OBJECTS = ("module", "loss", "optimizer")


def _named(thing: Any) -> Any:
    """A loss object as its description, a class or function as its import path; both are this program's own."""
    from torch import nn

    if isinstance(thing, nn.Module):
        return loss_spec(thing, {})
    return import_path(thing)


def _paths(values: Mapping[str, Any]) -> list[str]:
    """Every import path that a module, a loss and an optimizer stand for, as training will read them.

    Raises:
        InputError: if one of them is neither a name nor a description.
    """
    found: list[str] = []
    for name, value in ((name, values.get(name)) for name in ("module", "loss", "optimizer")):
        if value is None:
            continue
        if not isinstance(value, str):
            found += paths_of(value)
        elif name == "loss" and ":" not in value:
            found.append(f"torch.nn:{value}")
        elif name == "optimizer" and not {".", ":"} & set(value):
            found.append(f"torch.optim:{value}")
        else:
            found.append(_optimizer_path(value) if name == "optimizer" else value)
    return found


def _optimizer_path(name: str) -> str:
    import torch

    if ":" in name:
        return name
    if "." in name:
        module, _, last = name.rpartition(".")
        return f"{module}:{last}"
    if not isinstance(getattr(torch.optim, name, None), type):
        raise SettingsError(f"optimizer {name!r} is not in torch.optim: use a name such as Adam, or module:name")
    return f"torch.optim:{name}"


class _Reader(MLReader[TorchEstimator]):
    """Reads what :class:`StageWriter` wrote; nothing is imported that is not trusted."""

    def load(self, path: str) -> TorchEstimator:
        session = self.sparkSession
        metadata = read_metadata(session, path)
        paths = _paths({**metadata["defaultParamMap"], **metadata["paramMap"]})
        check_trusted(paths, also=trusted_by(session))
        trust(*paths)
        estimator = TorchEstimator()
        give_uid(estimator, metadata["uid"])
        DefaultParamsReader.getAndSetParams(estimator, metadata)
        estimator._given = SavedModule.of_tensors(read_files(session, path, FILES), where=path)
        return estimator
