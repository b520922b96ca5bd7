from __future__ import annotations

import io
import itertools
import random

import pytest

from ts4s_core.data.formats.text import blocks_between
from ts4s_core.data.formats.topics import documents_of, read_topics


def text_of(size: int, *, seed: int, ends: str = " \n") -> bytes:
    draw = random.Random(seed)
    words = []
    while sum(map(len, words)) < size:
        words.append("".join(draw.choices("abcäöü€😀", k=draw.randint(1, 9))) + draw.choice(ends))
    return "".join(words).encode()


@pytest.mark.parametrize("ends", [" \n", " ", "", "\n\n"], ids=["lines", "words", "no space", "paragraphs"])
def test_blocks_are_the_same_however_a_file_is_cut(ends: str) -> None:
    data = text_of(5_000, seed=1, ends=ends or "x")
    size = 256
    whole = list(blocks_between(io.BytesIO(data), 0, len(data), block_bytes=size))
    assert b"".join(block for _, block in whole) == data
    assert max(len(block) for _, block in whole) <= 2 * size
    assert [block.decode() for _, block in whole]  # no character is cut
    for step in (1, 3, 7):
        bounds = [*range(0, len(data), step * size), len(data)]
        parts = [
            found
            for start, stop in itertools.pairwise(bounds)
            for found in blocks_between(io.BytesIO(data), start, stop, block_bytes=size)
        ]
        assert parts == whole


def test_blocks_end_at_paragraphs_then_lines() -> None:
    data = b"a" * 90 + b"\n" + b"b" * 15 + b"\n\n" + b"c" * 100 + b"\n" + b"d" * 10
    assert [block for _, block in blocks_between(io.BytesIO(data), 0, len(data), block_bytes=100)] == [
        data[:108],
        data[108:209],
        data[209:],
    ]


def test_mark_is_dropped_and_nothing_follows_an_empty_file() -> None:
    assert list(blocks_between(io.BytesIO(b"\xef\xbb\xbfone"), 0, 6, block_bytes=64)) == [(0, b"one")]
    assert list(blocks_between(io.BytesIO(b""), 0, 0, block_bytes=64)) == []


def test_a_paragraph_of_the_topics_stands_in_one_document() -> None:
    topics = {
        "b": "Second\n******\n\n   Shared words\n   over lines.\n\nOwn words.\n\nPart\n====\n\nOther words.\n",
        "a": "First\n*****\n\nShared words over lines.\n",
    }
    assert list(documents_of(topics)) == [
        ("pydoc_data.topics/a/0", "First\n*****\n\nShared words over lines.\n"),
        ("pydoc_data.topics/b/0", "Second\n******\n\nOwn words.\n"),
        ("pydoc_data.topics/b/1", "Part\n====\n\nOther words.\n"),
    ]


def test_the_topics_of_this_python_repeat_nothing() -> None:
    paragraphs = [" ".join(part.split()) for _, text in read_topics() for part in text.split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs)) > 1_000
