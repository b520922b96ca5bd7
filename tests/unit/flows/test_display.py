from __future__ import annotations

import contextlib
import io

import pytest
from waiting import wait_for

from flows.cli import display
from flows.cli.command import Outcome
from flows.cli.display import Display
from flows.cli.output import columns, write


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def train(step: int) -> dict[str, int | float]:
    return {"step": step, "steps": 30, "loss": 0.6931, "tokens_per_s": 810}


def test_a_line_is_readable() -> None:
    stream = io.StringIO()
    with Display(stream) as shown:
        shown.progress("train", train(12))
    assert stream.getvalue() == "train step=12/30 loss=0.6931 tokens_per_s=810\n"


def test_lines_are_thinned_out_but_the_last_step_is_always_shown() -> None:
    stream = io.StringIO()
    with Display(stream) as shown:
        for step in range(1, 31):
            shown.progress("train", train(step))
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["step=1/30", "step=30/30"]


def test_what_was_held_back_is_shown_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "LINE_EVERY_S", 0.2)
    stream = io.StringIO()
    with Display(stream) as shown:
        shown.progress("train", train(1))
        shown.progress("train", train(2))
        assert wait_for(lambda: "step=2/30" in stream.getvalue())


def test_a_silent_step_says_that_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "HEARTBEAT_EVERY_S", 0.3)
    stream = io.StringIO()
    with Display(stream) as shown, shown.stage("export") as note:
        assert wait_for(lambda: "running" in stream.getvalue())
        note.text = "reused"
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("export running seconds=")
    assert lines[-1].startswith("export reused seconds=")


def test_checking_the_input_is_quiet_so_that_a_refusal_is_one_line() -> None:
    stream = io.StringIO()
    with Display(stream) as shown, contextlib.suppress(ValueError), shown.stage("check"):
        shown.progress("scan", {"row": 5})
        raise ValueError("bad")
    assert stream.getvalue() == ""


def test_a_failed_step_does_not_say_done() -> None:
    stream = io.StringIO()
    with Display(stream) as shown, pytest.raises(ValueError, match="bad"), shown.stage("train"):
        raise ValueError("bad")
    assert stream.getvalue() == ""


def test_bars_on_a_terminal() -> None:
    stream = Terminal()
    with Display(stream) as shown, shown.stage("train"):
        shown.progress("train", train(15))
    text = stream.getvalue()
    assert "train" in text
    assert "done in" in text


def test_results_as_table_text_and_json() -> None:
    stream = io.StringIO()
    write(
        Outcome({"metrics": {"accuracy": 0.93456, "loss": float("inf")}, "ok": True, "tags": ["a", "b"]}),
        as_json=False,
        stream=stream,
    )
    assert stream.getvalue() == "metrics.accuracy  0.9346\nmetrics.loss      inf\nok                yes\ntags              a, b\n"
    stream = io.StringIO()
    write(Outcome({"loss": float("inf"), "tag": "señal"}, text="ignored"), as_json=True, stream=stream)
    assert stream.getvalue() == '{"loss": null, "tag": "señal"}\n'
    stream = io.StringIO()
    write(Outcome({"loss": 1.0}, text=columns(("name", "n"), [("a", "10"), ("long", "2")])), as_json=False, stream=stream)
    assert stream.getvalue() == "name  n\na     10\nlong  2\n"
