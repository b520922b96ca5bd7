"""What a process keeps from one task to the next, in one place: opened models, tokenizers, hashes of checked files."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class _Entry:
    """A value that is made once; other threads that ask for it meanwhile wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = False
        self._value: Any = None

    def value(self, make: Callable[[], Any]) -> Any:
        with self._lock:
            if not self._made:
                self._value, self._made = make(), True
            return self._value


class ProcessState:
    """A bounded number of values of each kind, by key. Threads may share it; one waits for another only for the same value."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[str, OrderedDict[Hashable, _Entry]] = {}

    def get_or_make(self, kind: str, key: Hashable, make: Callable[[], T], *, most: int = 1) -> T:
        """The value of this key: the one made before if it is still kept, else a new one.

        Args:
            kind: of value; each kind has its own keys.
            key: everything that the value depends on.
            make: called if it is not there; what it raises is raised here, and the next call tries again.
            most: largest number of values of the kind; the least recently used are dropped first.
        """
        with self._lock:
            entries = self._kinds.setdefault(kind, OrderedDict())
            entry = entries.setdefault(key, _Entry())
            entries.move_to_end(key)
            while len(entries) > most:  # before the new one is made: two models need not fit into memory
                entries.popitem(last=False)
        return cast(T, entry.value(make))

    def put(self, kind: str, key: Hashable, value: Any) -> None:
        """Keep a value in place of the one that was made before."""
        with self._lock:
            self._kinds.get(kind, OrderedDict()).pop(key, None)
        self.get_or_make(kind, key, lambda: value)

    def clear(self) -> None:
        """Forget everything, as a new process would."""
        with self._lock:
            self._kinds.clear()


#: This process's. Tasks find it here and not among their arguments, because Spark starts Python workers without a word of ours.
PROCESS = ProcessState()
