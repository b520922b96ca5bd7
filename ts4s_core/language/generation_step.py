"""The generation step: texts of a trained language model as an artifact of kind ``text``."""

from __future__ import annotations

from collections.abc import Sequence

from ts4s_core.artifacts.steps import StepResult, run_step
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.keys import step_key
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.artifacts.writer import ArtifactWriter
from ts4s_core.data.corpus.dataset import TextDataset
from ts4s_core.data.tokenizers import load_tokenizer
from ts4s_core.language.facts import TextFacts
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import GenerateSettings, Settings

STEP = "generate"
#: Where the code of this step begins, for its key.
ENTRIES = (__name__,)
#: Tokens of held-out text that a sample goes on from, where no prompt is given.
PROMPT_TOKENS = 4
#: Prompt where no text may be quoted.
PLAIN_PROMPT = "The"
_KEY_SETTINGS = {"max_new_tokens", "temperature", "top_k", "top_p", "seed", "max_copied_tokens"}


def given_prompts(options: GenerateSettings) -> list[str]:
    """The prompts that the settings name; none, if they name none.

    Raises:
        SettingsError: the file of prompts cannot be read.
    """
    from ts4s_core.language.generate import prompts_of

    return prompts_of(options) if options.prompt_file is not None or options.prompt.strip() else []


def generate_texts(
    settings: Settings, store: ArtifactStore, *, trained: ArtifactRef, dataset: ArtifactRef, progress: Progress = silent
) -> StepResult:
    """Generate a text for each prompt, or find the artifact that holds them; see :class:`ts4s_core.language.facts.TextFacts`.

    Files: ``sample.txt`` (all texts), ``texts.json`` (prompt and text of each).

    Args:
        settings: groups ``generate``, and ``data.show_text``.
        store: where to look and to write.
        trained: the language model.
        dataset: where a prompt is taken from if the settings name none.
        progress: called with the number of texts that are done.

    Raises:
        SettingsError: a prompt is empty or too long for the model.
    """
    prompts = given_prompts(settings.generate) or [_own_prompt(store, dataset, show_text=settings.data.show_text)]
    key_settings = {**settings.generate.model_dump(mode="json", include=_KEY_SETTINGS), "prompts": prompts}
    return run_step(
        store,
        kind="text",
        name=settings.name,
        key=step_key("text", entries=ENTRIES, inputs={"trained": store.manifest(trained).content_sha256}, settings=key_settings),
        settings=key_settings,
        upstream={"trained": trained},
        reuse=settings.reuse,
        build=lambda writer: _write(writer, settings, store, trained=trained, prompts=prompts, progress=progress),
    )


def _write(
    writer: ArtifactWriter,
    settings: Settings,
    store: ArtifactStore,
    *,
    trained: ArtifactRef,
    prompts: Sequence[str],
    progress: Progress,
) -> None:
    from ts4s_core.language.copy_guard import guard_of
    from ts4s_core.language.generate import Generator

    generator = Generator.open(store.local(trained))
    generator.check(prompts)
    guard = guard_of(store, trained, longest=settings.generate.max_copied_tokens)
    texts = []
    for number, prompt in enumerate(prompts, start=1):
        # A block's beginning stands for the beginning of a text, not for the end of one: the model is not let end here.
        texts += generator.generate([prompt], settings.generate, stop_at_end=False, guard=guard)
        progress(STEP, {"text": number, "texts": len(prompts)})
    sample = "\n\n".join(text.text for text in texts)
    writer.add_bytes("sample.txt", sample.encode("utf-8", "replace") + b"\n")
    writer.add_json("texts.json", [{"prompt": text.prompt, "text": text.text, "tokens": len(text.ids)} for text in texts])
    writer.facts = TextFacts(sample=sample, texts=len(texts), tokens=sum(len(text.ids) for text in texts)).to_json()


def _own_prompt(store: ArtifactStore, dataset: ArtifactRef, *, show_text: bool) -> str:
    """The beginning of the first held-out block that has one: text that the model was not trained on."""
    if show_text:
        with TextDataset.open(store, dataset) as opened:
            tokenizer = load_tokenizer(opened.tokenizer_folder())
            for table in opened.read("test", ["input_ids"]):
                for ids in table.column("input_ids").to_pylist():
                    text = str(tokenizer.decode(ids[: PROMPT_TOKENS + 1])).strip()
                    if text and "�" not in text:
                        return text
    return PLAIN_PROMPT
