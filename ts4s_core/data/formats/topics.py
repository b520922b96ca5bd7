"""The embedded text: the topics of Python's own help (``pydoc_data.topics``), read from the Python that runs this.

The topics repeat each other: whole chapters stand in two of them. A paragraph is kept where it comes first, so that held-out
text is nowhere in the training text. A document is a section, because there are few topics and some are a tenth of it all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ts4s_core.errors import SourceError

NAME = "pydoc_data.topics"
_HEADING = re.compile(r"(?m)(?=^[^\n]+\n(?:\*{3,}|={3,}|-{3,}|\^{3,}|~{3,})\n)")
_BLANK = re.compile(r"\n[ \t]*\n\s*?(?=\S|[ \t]+\S)")


def read_topics() -> list[tuple[str, str]]:
    """Name and text of every document.

    Raises:
        SourceError: if this Python came without its help texts.
    """
    try:
        from pydoc_data.topics import topics  # type: ignore[import-untyped]
    except ImportError as exc:
        raise SourceError(
            f"The embedded text {NAME} is not part of this Python ({exc}): give data.source, a text file or a folder of them"
        ) from exc
    return list(documents_of(topics))


def documents_of(topics: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The sections of some topics, without the paragraphs that came before."""
    seen: set[str] = set()
    for name in sorted(topics):
        for number, section in enumerate(filter(str.strip, _HEADING.split(topics[name]))):
            kept = []
            for paragraph in _BLANK.split(section):
                words = " ".join(paragraph.split())
                if words and words not in seen:
                    seen.add(words)
                    kept.append(paragraph.strip("\n"))
            if kept:
                yield f"{NAME}/{name}/{number}", "\n\n".join(kept) + "\n"
