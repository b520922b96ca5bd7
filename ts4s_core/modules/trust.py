"""Which import paths a loaded model may name.

A saved model says ``module:name`` of what builds it. Importing a module runs its code, so a file from elsewhere must not
choose it: only ``torch.nn``, ``torch.optim`` and what this process's own code has named are taken. :func:`find`, which alone
imports, checks that itself, whoever else did; a worker takes what its driver vouched for. What cannot be imported is carried
(:mod:`ts4s_core.modules.carried`); so is what the running script defines, which is never imported a second time.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from ts4s_core.errors import InputError, UnsupportedModelError
from ts4s_core.modules.carried import carried, carry
from ts4s_core.process_state import PROCESS

#: Spark configuration with further names, separated by commas.
CONF = "spark.ts4s.trustedModules"
_LIBRARIES = ("torch.nn", "torch.optim", "torch.nn.functional")
#: Whose classes, not functions, may be named: parts of torch.nn's own modules.
_CLASSES_OF = ("torch.nn.modules", "torch.nn.utils.parametrize", "torch.nn.utils.parametrizations")
#: Plain objects that hold settings, functions of one tensor that modules keep as their activation, and graphs, which call torch.
_HARMLESS = frozenset(
    {"types:SimpleNamespace", "argparse:Namespace", "ts4s_core.modules.programs.program:Program"}
    | {f"torch:{name}" for name in ("relu", "tanh", "sigmoid", "selu", "celu", "softmax", "log_softmax", "sin", "cos", "abs")}
)
#: Where torch shows what it makes in inner modules.
_PUBLIC = {"torch.nn.modules.": "torch.nn", "torch.optim.": "torch.optim", "torch._C._nn": "torch.nn.functional"}
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*\Z")


def trust(*names: str) -> None:
    """Let saved models of this process name these.

    Args:
        names: modules (``my_package``, with all below it), or single paths (``my_package.networks:Net``).
    """
    _trusted().update(names)


def _trusted() -> set[str]:
    return PROCESS.get_or_make("trusted names", (), set)


def check_trusted(paths: Iterable[str], *, also: Iterable[str] = ()) -> None:
    """Refuse import paths that are not trusted; nothing is imported.

    Args:
        paths: ``module:name`` each.
        also: further names that are trusted.

    Raises:
        InputError: naming the first one.
    """
    known = {*_trusted().copy(), *_HARMLESS, *also}
    given = list(paths)
    here = carried(given)
    for path in given:
        if path in here:
            continue
        if not _PATH.match(path):
            raise InputError(f"Saved model names {path!r}, which would be imported: expected module:name")
        module, _, name = path.partition(":")
        parents = {module[:end] for end, char in enumerate(f"{module}.") if char == "."}
        if (module in _LIBRARIES or parents & set(_CLASSES_OF)) and name.isidentifier():
            continue
        if path not in known and not parents & known:
            raise InputError(
                f"Saved model names {path!r}, which would be imported: expected torch.nn, or a module that you trust. "
                f"Call ts4s_core.spark.trust({module!r}) before loading, or set the Spark configuration {CONF}"
            )


def find(path: str) -> Callable[..., Any]:
    """What ``module:name`` (dots allowed in both) stands for; nothing is imported before it is known to be trusted.

    Raises:
        InputError: if it is not trusted, cannot be imported, or cannot be called.
    """
    here = carried([path])
    if here:
        return here[path]  # type: ignore[no-any-return]
    check_trusted([path])
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for depth, piece in enumerate(name.split(".")):
            if depth and not inspect.isclass(found):
                raise AttributeError(f"{piece} of {type(found).__name__} {name.rpartition('.')[0]}: only a class has inner names")
            found = getattr(found, piece)
    except (ImportError, AttributeError, ValueError) as exc:
        raise InputError(
            f"{path!r} cannot be used: expected module:name that every worker can import, got {exc}. "
            "Install that module on the executors, or hand its file over with SparkContext.addPyFile"
        ) from exc
    if not callable(found):
        raise InputError(f"{path!r} cannot be used: expected a class or a function, got {type(found).__name__}")
    if module != "torch.nn.functional":  # most of it is made elsewhere in torch
        _check_home(path, str(getattr(found, "__module__", "")))
    if any(module == home or module.startswith(f"{home}.") for home in _CLASSES_OF) and not isinstance(found, type):
        raise InputError(f"Saved model names {path!r}: expected a class of torch.nn's, got a {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _check_home(path: str, home: str) -> None:
    """A trusted module vouches for what is made in it, not for whatever it has imported, such as a library's ``system``."""
    known = {*_trusted().copy(), *_LIBRARIES, *_CLASSES_OF}
    parents = {home[:end] for end, char in enumerate(f"{home}.") if char == "."}
    if path not in known | _HARMLESS and not parents & known:
        raise InputError(
            f"Saved model names {path!r}, which is {home}'s own: expected what the module itself defines. "
            f"Call ts4s_core.spark.trust({path!r}) if that is meant"
        )


def import_path(thing: object) -> str:
    """``module:name`` of a class or function, or the name that it is carried by, if it cannot be imported.

    What this process holds it has imported already, so it is trusted from now on.

    Raises:
        UnsupportedModelError: if it is no class or function.
    """
    name, module = getattr(thing, "__qualname__", ""), str(getattr(thing, "__module__", None) or "torch")
    if not name:
        raise UnsupportedModelError(f"{thing!r} is a {type(thing).__name__}: expected a class or a function. Give its class")
    if module == "__main__":
        return carry(thing)
    last = name.rpartition(".")[2]
    public = next((public for inside, public in _PUBLIC.items() if module.startswith(inside)), module)
    for home, known in ((public, last), (module, name)):
        if _held(home, known) is thing:
            trust(f"{home}:{known}")
            return f"{home}:{known}"
    return carry(thing)


def _held(module: str, name: str) -> Any:
    """What a loaded module has under a name; None if it has none."""
    found: Any = sys.modules.get(module)
    for piece in name.split("."):
        found = getattr(found, piece, None)
    return found
