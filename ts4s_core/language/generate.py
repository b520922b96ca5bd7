"""Text from a trained language model.

Each prompt is computed by itself, one token after the other, with random numbers that depend on (seed, prompt) alone: a text
is the same whatever other prompts stand beside it.

A model takes as many tokens at once as its training windows had; a text begins with the token that every training text began
with. A prompt has to leave room for one token more; when a text has filled the room, its last half is read anew, and it goes
on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ts4s_core.errors import SettingsError
from ts4s_core.host_user import expanded
from ts4s_core.language.sampling import next_token, random_of_prompt
from ts4s_core.language.tokens import special_ids, tokenizer_of
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.settings import GenerateSettings
from ts4s_core.task_kinds.language_model import LANGUAGE_MODEL

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ts4s_core.language.copy_guard import CopyGuard
    from ts4s_core.language.steppers import Stepper

#: Called with the prompt's number and the next piece of its text, as it comes.
OnPiece = Callable[[int, str], None]
#: A broken character at the end of a text: its other bytes may come with the next token.
_BROKEN = "�"


@dataclass(frozen=True)
class Generated:
    """One text.

    Attributes:
        prompt: the text that it continues.
        text: the prompt and what was generated.
        ids: the tokens that were generated.
        seconds: how long it took.
        ended: whether the model ended the text itself.
    """

    prompt: str
    text: str
    ids: tuple[int, ...]
    seconds: float
    ended: bool


def prompts_of(options: GenerateSettings) -> list[str]:
    """The prompts that the settings name: one, or each line of a file that is not blank.

    Raises:
        SettingsError: the prompt or the file is empty, or the file cannot be read.
    """
    if options.prompt_file is None:
        if not options.prompt.strip():
            raise SettingsError("generate.prompt is empty: expected some text to go on from. Give it, or generate.prompt_file")
        return [options.prompt]
    path = expanded(options.prompt_file)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise SettingsError(f"generate.prompt_file {path} cannot be read: {exc.strerror or exc}. Name a text file") from exc
    except UnicodeDecodeError as exc:
        raise SettingsError(f"generate.prompt_file {path} is not UTF-8 text: {exc.reason} at byte {exc.start}") from exc
    prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise SettingsError(f"generate.prompt_file {path} has no prompt: expected one a line, got blank lines alone")
    return prompts


class Generator:
    """A language model that generates.

    Attributes:
        positions: tokens that the model takes at once.
        tokenizer: its own.
    """

    def __init__(
        self,
        stepper: Stepper,
        tokenizer: Tokenizer,
        *,
        positions: int,
        begin: int | None,
        end: int | None,
        never: frozenset[int],
    ) -> None:
        self.positions = positions
        self.tokenizer = tokenizer
        self._stepper = stepper
        self._begin = [] if begin is None else [begin]
        self._end = end
        self._never = never

    @classmethod
    def open(cls, folder: Path) -> Generator:
        """The generator of a ``trained`` artifact's folder.

        Raises:
            SettingsError: the model is no language model.
            IntegrityError: its files are damaged.
        """
        opened = ModelFolder(folder)
        spec = opened.spec
        if spec.kind.base != LANGUAGE_MODEL.base:
            raise SettingsError(
                f"The model's task is {spec.task}: expected {LANGUAGE_MODEL.name}, which alone generates text. "
                f"Name a model that ts4s {LANGUAGE_MODEL.flow} trained"
            )
        from ts4s_core.language.steppers import stepper_of

        stepper, _model = stepper_of(opened)
        described = tokenizer_of(opened.tokenizer_folder)
        tokenizer = described.load()
        end = special_ids(opened.tokenizer_folder, tokenizer).get("eos")
        special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        nothing = set(range(spec.vocab_size)) - set(tokenizer.get_vocab().values())  # rows of the table that no token has
        never = frozenset(number for number in special | nothing if number != end and number < spec.vocab_size)
        return cls(stepper, tokenizer, positions=spec.max_length, begin=described.begin_id, end=end, never=never)

    def check(self, prompts: Sequence[str]) -> list[list[int]]:
        """The prompts as tokens.

        Raises:
            SettingsError: one is empty, or too long.
        """
        found = [list(encoding.ids) for encoding in self.tokenizer.encode_batch(list(prompts), add_special_tokens=False)]
        for number, ids in enumerate(found, start=1):
            if not ids:
                raise SettingsError(f"Prompt {number} has no token that the model knows: expected some text to go on from")
            room = self.positions - 1 - len(self._begin)
            if len(ids) > room:
                raise SettingsError(
                    f"Prompt {number} has {len(ids)} tokens: expected at most {room}, what the window of {self.positions} "
                    "leaves. Shorten it"
                )
        return found

    def generate(
        self,
        prompts: Sequence[str],
        options: GenerateSettings,
        *,
        on_piece: OnPiece | None = None,
        stop_at_end: bool = True,
        guard: CopyGuard | None = None,
    ) -> list[Generated]:
        """Continue each prompt.

        Args:
            prompts: the prompts.
            options: ``max_new_tokens``, ``temperature``, ``top_k``, ``top_p``, ``seed``.
            on_piece: called with each piece of text as it comes, the prompt first.
            stop_at_end: whether the model's own end of a text ends it; else that token is never chosen.
            guard: keeps the text from copying.

        Raises:
            SettingsError: a prompt is empty or too long.
        """
        texts = []
        for number, (prompt, ids) in enumerate(zip(prompts, self.check(prompts), strict=True)):
            started = time.perf_counter()
            stream = _TextStream(self.tokenizer, prompt, ids, on_piece=_bound(on_piece, number))
            new: list[int] = []
            ended = False
            for token in self._tokens(prompt, ids, options, stop_at_end=stop_at_end, guard=guard):
                ended = stop_at_end and token == self._end
                if ended:
                    break
                new.append(token)
                stream.add(token)
            texts.append(Generated(prompt, stream.finish(), tuple(new), time.perf_counter() - started, ended))
        return texts

    def _tokens(
        self, prompt: str, ids: list[int], options: GenerateSettings, *, stop_at_end: bool, guard: CopyGuard | None
    ) -> Iterator[int]:
        random = random_of_prompt(options.seed, prompt)
        never = self._never if stop_at_end or self._end is None else self._never | {self._end}
        held = [*self._begin, *ids]
        said = list(held)
        logits = self._stepper.read(held, reset=True)
        for left in range(options.max_new_tokens, 0, -1):
            refused = () if guard is None else guard.refused(said)
            token = next_token(logits, options, random=random, never=[*never, *refused])
            said.append(token)
            yield token
            if left == 1:
                return
            held.append(token)
            if len(held) > self.positions:
                held = held[-max(1, self.positions // 2) :]
                logits = self._stepper.read(held, reset=True)
            else:
                logits = self._stepper.read([token], reset=False)


class _TextStream:
    """Decodes tokens as they come and passes on pieces of text, whole characters only; each token costs the same."""

    def __init__(self, tokenizer: Tokenizer, prompt: str, ids: list[int], *, on_piece: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(ids)
        # What is decoded begins a piece before the one that is new: some decoders put spaces between tokens.
        self._begin, self._end = 0, len(ids)
        self._pieces = [prompt]
        self._on_piece = on_piece
        on_piece(prompt)

    def add(self, token: int) -> None:
        """One token more."""
        self._ids.append(token)
        piece = self._new_piece()
        if piece and not piece.endswith(_BROKEN):
            self._take(piece)

    def finish(self) -> str:
        """The whole text; the piece that was held back is passed on."""
        piece = self._new_piece()
        if piece:
            self._take(piece)
        return "".join(self._pieces)

    def _new_piece(self) -> str:
        old = str(self._tokenizer.decode(self._ids[self._begin : self._end]))
        return str(self._tokenizer.decode(self._ids[self._begin :]))[len(old) :]

    def _take(self, piece: str) -> None:
        self._pieces.append(piece)
        self._begin, self._end = self._end, len(self._ids)
        self._on_piece(piece)


def _bound(on_piece: OnPiece | None, number: int) -> Callable[[str], None]:
    return (lambda piece: None) if on_piece is None else (lambda piece: on_piece(number, piece))
