from __future__ import annotations

import logging

import pytest

from ts4s_core import retries
from ts4s_core.errors import DataError, IntegrityError, StoreError
from ts4s_core.retries import STORE, Backoff, retried


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", made.append)
    return made


class Failing:
    """Raises what it was given, one after the other, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "done"


def test_a_store_is_asked_again_after_longer_and_longer_pauses(pauses: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert retried(Failing(StoreError("busy"), OSError("gone")), what="writing a.json failed") == "done"
    assert pauses == [0.5, 1.0]
    assert caplog.messages == ["writing a.json failed, again in 0.5 s: busy", "writing a.json failed, again in 1.0 s: gone"]


def test_the_last_failure_is_raised(pauses: list[float]) -> None:
    action = Failing(*(StoreError(str(number)) for number in range(9)))
    with pytest.raises(StoreError, match=r"^5$"):
        retried(action)
    assert (action.calls, pauses) == (STORE.tries, [0.5, 1.0, 2.0, 4.0, 8.0])


@pytest.mark.parametrize("failure", [IntegrityError("cut"), DataError("empty"), ValueError("x")])
def test_what_does_not_pass_is_not_tried_again(failure: Exception, pauses: list[float]) -> None:
    action = Failing(failure)
    with pytest.raises(type(failure)):
        retried(action)
    assert (action.calls, pauses) == (1, [])


def test_a_failure_of_ones_own_passes_where_one_says_so(pauses: list[float]) -> None:
    backoff = Backoff(tries=4, first_s=0.2, factor=5.0, longest_s=3.0)
    assert retried(Failing(*[KeyError()] * 3), backoff=backoff, is_transient=lambda exc: isinstance(exc, KeyError)) == "done"
    assert pauses == [0.2, 1.0, 3.0]
