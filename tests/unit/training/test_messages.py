"""Every message of the control channel crosses as one line, and what is none is refused without showing what it holds."""

from __future__ import annotations

import json

import pytest
from toy import step_row

from ts4s_core.artifacts.versions.manifest import FileEntry
from ts4s_core.errors import NonFiniteError
from ts4s_core.training.control import messages
from ts4s_core.training.facts import Staleness, StrategyFacts

TRAINED = messages.TrainedWeights(
    weights=FileEntry("model.safetensors", 3, "ab" * 32),
    weights_sha256="cd" * 32,
    best_step=4,
    validation_loss=0.25,
    strategy=StrategyFacts(reproducible=False, staleness=Staleness(mean=0.5, max=1, updates=2, histogram={"0": 1, "1": 1})),
)
FROM_WORKERS = [
    messages.Beat(step=3),
    messages.Gather(key="k", value={"a": [1, None]}),
    messages.Gather(key="k", value=None),
    messages.Failed.by(NonFiniteError("step 3")),
    messages.Note(message="so"),
    messages.Warned(message="so\nso"),
    messages.Started(step=2, steps=9),
    messages.Stepped(rows=[step_row(3)]),
    messages.Validated(step=3, loss=0.5),
    messages.Result(result=messages.WorkerResult(rank=0, steps=9, trained=TRAINED)),
    messages.Result(result=messages.WorkerResult(rank=1, steps=9)),
    messages.Done(),
]
FROM_DRIVER = [messages.Gathered(key="k", values=[1, None]), messages.Bye(), messages.Abort()]


@pytest.mark.parametrize("message", FROM_WORKERS)
def test_what_workers_say_arrives_as_it_was(message):
    line = messages.encoded(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert messages.from_worker(line) == message


@pytest.mark.parametrize("message", FROM_DRIVER)
def test_what_the_driver_says_arrives_as_it_was(message):
    assert messages.from_driver(messages.encoded(message)) == message


def test_the_two_directions_are_kept_apart_and_every_type_is_one_message():
    for line in map(messages.encoded, FROM_DRIVER):
        with pytest.raises(ValueError, match="expected a message of the control channel"):
            messages.from_worker(line)
    named = {json.loads(messages.encoded(message))["type"]: type(message) for message in [*FROM_WORKERS, *FROM_DRIVER]}
    assert len(named) == len(set(named.values())) == 13


def test_an_error_is_raised_again_as_what_it_was():
    error = messages.Failed.by(NonFiniteError("step 3")).raised()
    assert (type(error), str(error)) == (NonFiniteError, "step 3")


@pytest.mark.parametrize("line", [b"", b"[]", b'{"type": "beat"}', b'{"type": "beat", "step": "many"}', b'{"type": "beet"}'])
def test_what_is_no_message_is_a_value_error(line):
    with pytest.raises(ValueError, match="expected a message of the control channel, got one with"):
        messages.from_worker(line)


def test_secrets_are_neither_shown_nor_quoted():
    hello = messages.Hello(secret="HUSH", rank=0, host="h", pid=7, address="a")
    assert messages.hello_of(messages.encoded(hello)) == hello
    assert "HUSH" not in repr(hello)
    with pytest.raises(ValueError, match="no rank") as caught:
        messages.hello_of(b'{"secret": "HUSH", "host": "h", "pid": 7, "address": "a"}')
    assert "HUSH" not in str(caught.value)


def test_numbers_that_json_has_not_are_not_sent():
    with pytest.raises(ValueError, match="Out of range"):
        messages.encoded(messages.Validated(step=1, loss=float("nan")))
