"""``ts4s generate``: text from a trained language model, without Prefect and without Spark."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from flows.cli.command import Invocation, Outcome
from flows.cli.output import write_text
from ts4s_core.artifacts.leases.in_use import in_use
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import SettingsError
from ts4s_core.language.copy_guard import guard_of
from ts4s_core.language.generate import Generator, OnPiece, prompts_of


def generate_command(invocation: Invocation) -> Outcome:
    """Go on from each prompt; the text goes to standard output as it comes."""
    options, store = invocation.settings.generate, ArtifactStore.open(invocation.settings.storage)
    prompts = prompts_of(options)
    ref = Registry(store).resolve(invocation.options.model)
    stream = invocation.stream
    with in_use(store, "generate"):
        generator = _opened(store.local(ref), invocation.options.model)
        generator.check(prompts)
        guard = guard_of(store, ref, longest=options.max_copied_tokens)
    texts = generator.generate(prompts, options, on_piece=None if stream is None else _written(stream), guard=guard)
    tokens, seconds = sum(len(text.ids) for text in texts), sum(text.seconds for text in texts)
    values = {
        "model": str(ref),
        "prompts": prompts,
        "texts": [text.text for text in texts],
        "tokens": tokens,
        "tokens_per_s": round(tokens / seconds, 1) if seconds else 0.0,
    }
    if stream is not None:
        stream.write("\n")
    return Outcome(values, text="")


def _opened(folder: Path, name: str) -> Generator:
    try:
        return Generator.open(folder)
    except SettingsError as exc:
        raise SettingsError(f"--model {name}: {exc}") from exc


def _written(stream: TextIO) -> OnPiece:
    """Writes pieces at once; a blank line parts the texts."""
    begun: set[int] = set()

    def write(number: int, piece: str) -> None:
        if number and number not in begun:
            stream.write("\n\n")
        begun.add(number)
        write_text(piece, stream)
        stream.flush()

    return write
