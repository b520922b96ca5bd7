"""Any PyTorch optimiser that treats each element alone, on a rank's own slices, in the same bits for every number of workers.

Each chunk of a slice is a parameter of its own to the optimiser. That is the same as stepping whole tensors exactly for
optimisers whose update of an element depends on nothing but that element's gradients: SGD, Adam, AdamW, RMSprop, Adagrad and
most others. One that looks at whole tensors (LBFGS, Adafactor, Muon) is found out by trying, and refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ts4s_core.errors import InputError, IntegrityError, SettingsError
from ts4s_core.torch_internals import optimizers_without_compiler, step_of
from ts4s_core.training.checkpoints.reader import Checkpoint
from ts4s_core.training.exchange.buckets import chunks
from ts4s_core.training.exchange.exchange import Exchange

_SCALAR = "scalar"
_PROBED_STEPS = 3

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


def optimizer_maker(kind: Callable[..., Any], options: Mapping[str, Any], *, learning_rate: float) -> Make:
    """A function that makes the optimiser of some parameters.

    Args:
        kind: a class of ``torch.optim``, or one like it.
        options: its keyword arguments, without ``lr``.
        learning_rate: ``lr``.

    Raises:
        InputError: if the class refuses its options, or does not update each element by itself.
    """
    name = getattr(kind, "__name__", str(kind))

    def make(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        try:
            with optimizers_without_compiler():
                made = kind(parameters, lr=learning_rate, **options)
        except (TypeError, ValueError) as exc:
            raise InputError(f"optimizer {name} cannot be made: {exc}. See optimizerArgs") from exc
        if not isinstance(made, torch.optim.Optimizer):
            raise InputError(f"optimizer {name} made a {type(made).__name__}: expected a torch.optim.Optimizer")
        return made

    _probe(make, name)
    return make


def averaged_decay(optimizer: Mapping[str, Any]) -> float:
    """The weight decay of strategy averaging.

    Args:
        optimizer: its description: ``factory`` and ``arguments``.

    Raises:
        SettingsError: on an optimizer that is neither Adam nor AdamW: averaging averages their two moments.
    """
    path, arguments = str(optimizer["factory"]), optimizer["arguments"]
    decay = float(arguments.get("weight_decay", 0.01)) if path == "torch.optim:AdamW" else 0.0
    allowed = {"torch.optim:Adam": set(), "torch.optim:AdamW": {"weight_decay"}}.get(path)
    if allowed is None or arguments.keys() - allowed:
        raise SettingsError(
            f"strategy averaging with optimizer {path} and {dict(arguments)}: expected Adam, or AdamW with weight_decay alone, "
            "whose moments are averaged too. Use strategy synchronous or hogwild with other optimizers"
        )
    return decay


def _probe(make: Make, name: str) -> None:
    """Step a matrix whole and cut in pieces: other bits mean that the optimiser looks at whole tensors.

    Raises:
        InputError: if it needs whole tensors.
    """
    random = torch.Generator().manual_seed(7)
    start = torch.randn(4, 64, generator=random)
    cuts = ((0, 64), (64, 192), (192, 256))
    whole = torch.nn.Parameter(start.clone())
    pieces = [torch.nn.Parameter(start.reshape(-1)[begin:end].clone()) for begin, end in cuts]
    reason = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            steps = step_of(make([whole])), step_of(make(pieces))
            for _step in range(_PROBED_STEPS):
                gradient = torch.randn(4, 64, generator=random)
                whole.grad = gradient.clone()
                for piece, (begin, end) in zip(pieces, cuts, strict=True):
                    piece.grad = gradient.reshape(-1)[begin:end].clone()
                with torch.no_grad():
                    for step in steps:
                        step()
        same = torch.equal(whole.detach().reshape(-1), torch.cat([piece.detach() for piece in pieces]))
    except (RuntimeError, TypeError, ValueError, InputError) as exc:
        if isinstance(exc, InputError) and "Muon" not in name:
            raise
        same, reason = False, f" ({str(exc).splitlines()[0]})"
    if not same:
        raise InputError(
            f"optimizer {name} needs whole tensors{reason}: expected one that updates each element by itself, because every "
            "worker steps a slice of the weights. Use SGD, Adam, AdamW, NAdam, RAdam, Adamax, RMSprop, Adagrad, Adadelta, "
            "ASGD or Rprop"
        )


class SlicedTorch:
    """An optimiser of PyTorch's over the rank's slices of the exchange's buckets.

    Args:
        exchange: its parameters and gradients.
        make: see :func:`optimizer_maker`.
    """

    def __init__(self, exchange: Exchange, *, make: Make) -> None:
        self._exchange = exchange
        self._chunks: list[list[torch.nn.Parameter]] = []
        self._gradients: list[torch.Tensor] = []
        for bucket, (start, stop) in enumerate(exchange.slices):
            own = []
            for begin, end in chunks(start, stop):
                parameter = torch.nn.Parameter(exchange.parameters[bucket][begin:end])
                parameter.grad = exchange.gradients[bucket][begin:end]
                own.append(parameter)
                self._gradients.append(exchange.gradients[bucket][begin:end])
            self._chunks.append(own)
        every = [parameter for own in self._chunks for parameter in own]
        # A rank without blocks has nothing to step; torch refuses an optimiser of nothing.
        self._optimizer = make(every) if every else None
        self._step = step_of(self._optimizer) if self._optimizer is not None else None

    @property
    def moments(self) -> Sequence[tuple[torch.Tensor, ...]]:
        """For each bucket the optimiser's tensors that have a number for each element of the own slice, in order of name."""
        return [tuple(self._whole(own, kind) for kind in self._kinds(own)) for own in self._chunks]

    def step(self, number: int, *, learning_rate: float, divisor: float) -> None:
        """Update the own slices of the parameters; see :meth:`ts4s_core.training.optimizers.adamw.SlicedAdamW.step`."""
        if self._optimizer is None or self._step is None:
            return
        scale = torch.tensor(divisor, dtype=self._gradients[0].dtype)
        with torch.no_grad():
            for gradient in self._gradients:
                gradient.div_(scale)
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
            self._step()

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the state, by ``kind/bucket/start/stop``; what chunks have in common once, as ``scalar/name/0/0``."""
        named: dict[str, torch.Tensor] = {}
        for bucket, (own, (start, stop)) in enumerate(zip(self._chunks, self._exchange.slices, strict=True)):
            for kind in self._kinds(own):
                named[f"{kind}/{bucket}/{start}/{stop}"] = self._whole(own, kind)
            for name, value in self._state(own).items():
                if name not in self._kinds(own) and value is not None:
                    named[f"{_SCALAR}/{name}/0/0"] = torch.as_tensor(value).clone()
        return named

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take the state of the own slices out of a checkpoint, whichever ranks wrote it.

        Raises:
            IntegrityError: if elements are missing.
        """
        if self._optimizer is None:
            return
        scalars: dict[str, torch.Tensor] = {}
        found: dict[int, dict[str, torch.Tensor]] = {bucket: {} for bucket in range(len(self._chunks))}
        filled: dict[tuple[int, str], int] = {}
        for kind, place, start, stop, read in checkpoint.pieces():
            if kind == _SCALAR:
                scalars[place] = read(None, None)
                continue
            number = int(place)
            own_start, own_stop = self._exchange.slices[number]
            begin, end = max(own_start, start), min(own_stop, stop)
            if begin < end:
                piece = read(begin - start, end - start)
                target = found[number].setdefault(kind, torch.zeros(own_stop - own_start, dtype=piece.dtype))
                target[begin - own_start : end - own_start] = piece
                filled[number, kind] = filled.get((number, kind), 0) + end - begin
        for bucket, own in enumerate(self._chunks):
            start, stop = self._exchange.slices[bucket]
            if any(filled[bucket, kind] != stop - start for kind in found[bucket]):
                raise IntegrityError(f"Checkpoint {checkpoint.folder.name} lacks state of bucket {bucket}: it is another model's")
            for parameter, (begin, end) in zip(own, chunks(start, stop), strict=True):
                pieces = {kind: whole[begin - start : end - start].clone() for kind, whole in found[bucket].items()}
                if pieces or scalars:
                    self._optimizer.state[parameter] = {**{name: value.clone() for name, value in scalars.items()}, **pieces}

    def _state(self, own: list[torch.nn.Parameter]) -> dict[str, Any]:
        return dict(self._optimizer.state[own[0]]) if own and self._optimizer is not None else {}

    def _kinds(self, own: list[torch.nn.Parameter]) -> list[str]:
        """Names of the state that has a number for each element."""
        return sorted(
            name
            for name, value in self._state(own).items()
            if isinstance(value, torch.Tensor) and value.shape == own[0].shape and value.ndim
        )

    def _whole(self, own: list[torch.nn.Parameter], kind: str) -> torch.Tensor:
        assert self._optimizer is not None
        return torch.cat([self._optimizer.state[parameter][kind] for parameter in own])
