"""Tokenizers whose library panics: a panic is no Exception, and ended the run with a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from ts4s_core.data.tokenizers import tokenize, tokenizer_from
from ts4s_core.errors import SourceError

_PAIRS = {"type": "BPE", "continuing_subword_prefix": "x" * 30, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}


def record() -> dict[str, Any]:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="a $A a", special_tokens=[("a", 1)])
    made: dict[str, Any] = json.loads(words.to_str())
    return made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found["post_processor"]["special_tokens"].clear(), "The tokenizer cannot encode a text"),
        (lambda found: found["model"]["vocab"].pop("<unk>"), "The tokenizer cannot encode a text: WordLevel error"),
        (lambda found: found.update(model=_PAIRS), "Tokenizer of a test cannot be read: range end index"),
        (lambda found: found["model"].update(type="None"), "Tokenizer of a test cannot be read"),
    ],
)
def test_damaged_tokenizer(change: Callable[[dict[str, Any]], object], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    found = record()
    assert [tokens.ids for tokens in tokenize(tokenizer_from(json.dumps(found)), ["a b c"], fallback_id=0)] == [[1, 1, 2, 0, 1]]
    change(found)
    with pytest.raises(SourceError, match=said):
        tokenize(tokenizer_from(json.dumps(found), where="of a test"), ["a b c"], fallback_id=0)
    capfd.readouterr()  # the library writes of its panic on standard error
