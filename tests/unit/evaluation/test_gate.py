from __future__ import annotations

import json

import pytest

from ts4s_core.errors import IntegrityError
from ts4s_core.evaluation.figures.paired_gain import Gain
from ts4s_core.evaluation.gate.decision import Decision, Evidence, decide

CHAMPION = "trained/demo/20261121T041500.123456Z-1a2b3c4d"


def evidence(**changes: object) -> Evidence:
    values: dict[str, object] = {"metric": "accuracy", "candidate": 0.8, "baseline": 0.5, "labels": ("a", "b")}
    return Evidence(**{**values, **changes})  # type: ignore[arg-type]


def gained(gain: float, low: float) -> Gain:
    return Gain(candidate=0.8 + gain, champion=0.8, gain=gain, low=low, high=gain + 0.02, rows=500)


def test_first_version_must_beat_the_majority_class() -> None:
    decision = decide(evidence(), champion=None, min_improvement=0.4)
    assert decision.promote
    assert decision.why == "first version: accuracy 0.8000 beats the majority class (0.5000)"
    assert not decide(evidence(candidate=0.5), champion=None, min_improvement=0.0).promote


def test_a_lower_loss_is_better() -> None:
    assert decide(evidence(metric="loss", candidate=0.4), champion=None, min_improvement=0.0).promote
    assert not decide(evidence(metric="loss", candidate=0.6), champion=None, min_improvement=0.0).promote


@pytest.mark.parametrize(
    ("gain", "low", "promote", "clause"),
    [
        (0.03, 0.01, True, "gain of +0.0300 in accuracy over trained/demo"),
        (0.01, 0.001, True, "on 500 rows, 95 % interval +0.0010 to +0.0300"),  # exactly min_improvement
        (0.009, 0.001, False, "is below evaluate.min_improvement 0.01"),
        (0.03, 0.0, False, "may be chance: the interval's lower end is not above 0"),
        (-0.03, -0.05, False, "is below evaluate.min_improvement 0.01"),
    ],
)
def test_champion_is_beaten_by_enough_and_not_by_chance(gain: float, low: float, promote: bool, clause: str) -> None:
    found = evidence(gain=gained(gain, low), champion_labels=("b", "a"))
    decision = decide(found, champion=CHAMPION, min_improvement=0.01)
    assert decision.promote is promote
    assert clause in decision.why
    assert decision.champion == CHAMPION


def test_same_weights_as_the_champion_stay_out_with_no_improvement_asked() -> None:
    decision = decide(evidence(gain=Gain(0.8, 0.8, 0.0, 0.0, 0.0, 10)), champion=CHAMPION, min_improvement=0.0)
    assert not decision.promote


def test_nothing_to_compare_is_no_promotion() -> None:
    decision = decide(evidence(gain=None, champion_labels=("a", "b")), champion=CHAMPION, min_improvement=0.0)
    assert not decision.promote
    assert "nothing to compare" in decision.why


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({"leaked": 3}, "leak: 3 text(s) of the test side are in the training side too"),
        ({"champion_labels": ("a", "c")}, "changed label set (new: b; gone: c)"),
        ({"champion_labels": ("a", "b"), "drift": ("data drift in length: ...",)}, "data drift in length"),
    ],
)
def test_what_stops_a_promotion_whatever_the_gain(changes: dict[str, object], clause: str) -> None:
    decision = decide(evidence(gain=gained(0.1, 0.05), **changes), champion=CHAMPION, min_improvement=0.0)
    assert not decision.promote
    assert clause in decision.why


def test_a_leak_stops_the_first_version_too() -> None:
    assert not decide(evidence(leaked=1), champion=None, min_improvement=0.0).promote


def test_notes_are_part_of_the_reason() -> None:
    assert decide(evidence(notes=("its data are gone",)), champion=None, min_improvement=0.0).why.endswith("; its data are gone")


def test_decision_travels_as_json() -> None:
    decision = decide(evidence(gain=gained(0.1, 0.05)), champion=CHAMPION, min_improvement=0.02)
    back = Decision.from_json(json.loads(json.dumps(decision.to_json())))
    assert (back.promote, back.why, back.champion) == (decision.promote, decision.why, CHAMPION)
    assert back.figures["gain"]["low"] == 0.05
    assert back.figures["min_improvement"] == 0.02


@pytest.mark.parametrize("record", [{}, {"promote": "yes", "why": ""}, {"promote": True, "why": "", "more": 1}])
def test_another_record_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(IntegrityError, match="decision cannot be read"):
        Decision.from_json(record)
