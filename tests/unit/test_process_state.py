from __future__ import annotations

import threading

import pytest

from ts4s_core.process_state import ProcessState


def test_a_thing_is_made_once_for_its_key_and_the_last_ones_are_kept() -> None:
    state, made = ProcessState(), []

    def make(name: str) -> str:
        made.append(name)
        return name

    asked = ["a", "b", "a", "c", "a", "b"]  # of two that are kept, c drives b out, which is made again
    assert [state.get_or_make("letter", name, lambda name=name: make(name), most=2) for name in asked] == asked
    assert made == ["a", "b", "c", "b"]
    assert state.get_or_make("number", "a", lambda: 1) == 1  # another kind has keys of its own
    state.clear()
    assert state.get_or_make("letter", "a", lambda: make("again")) == "again"


def test_what_cannot_be_made_is_tried_again() -> None:
    state = ProcessState()
    with pytest.raises(ZeroDivisionError):
        state.get_or_make("figure", 0, lambda: 1 // 0)
    assert state.get_or_make("figure", 0, lambda: 7) == 7


def test_threads_wait_for_one_making_and_not_for_other_things() -> None:
    state, begun, go = ProcessState(), threading.Event(), threading.Event()
    made: list[object] = []

    def slow() -> object:
        begun.set()
        assert go.wait(60)
        made.append(object())
        return made[-1]

    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(state.get_or_make("model", "m", slow))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    # A model that is being made opens files, and other threads look up what is known of those.
    assert state.get_or_make("file", "f", lambda: "known") == "known"
    go.set()
    for thread in threads:
        thread.join(60)
    assert len(made) == 1
    assert found == made * 4
