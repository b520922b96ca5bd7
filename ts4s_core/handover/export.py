"""``ts4s models export``: a trained version as a folder for other tools."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import SettingsError, StoreError, UnsupportedModelError
from ts4s_core.progress import Progress, silent
from ts4s_core.training.facts import TrainedFacts

FORMATS = ("hf", "onnx", "torch", "onnx-int8", "onnx-int4")
_STAGE = "export"


def export_trained(
    store: ArtifactStore, ref: ArtifactRef, *, form: str, to: Path, threads: int = 1, progress: Progress = silent
) -> dict[str, Any]:
    """Write a trained version as ``form`` into a folder, whole or not at all, after checking that it answers the same.

    Beside the model are ``labels.json``, the tokenizer's files, and ``export.json`` with what was checked.

    Args:
        store: holds the version.
        ref: the ``trained`` artifact.
        form: one of ``FORMATS``.
        to: a folder that does not exist, or is empty.
        threads: threads of the speed measurement of the quantised forms.
        progress: called as it goes on.

    Returns:
        what ``export.json`` says, and the folder.

    Raises:
        SettingsError: no such format, or a folder that is not empty or cannot be made.
        UnsupportedModelError: the model has no such form.
        ParityError: the form computes something else, or a quantised one loses too much.
    """
    check_export(form, to)
    progress(_STAGE, {"doing": "read"})
    from ts4s_core.handover.answers import ANSWERING, check_answers
    from ts4s_core.handover.tokenizer import write_tokenizer
    from ts4s_core.handover.trained import Trained

    trained = Trained(store.local(ref), store.manifest(ref))
    if trained.spec.network is not None and form != "torch":
        raise UnsupportedModelError(
            f"Export as {form} of {ref}: expected a transformer or an imported graph, got a small network "
            f"({trained.spec.network['architecture']}), which has no such form. Use --format torch"
        )
    with _whole(to) as folder:
        made = _write(trained, folder, form=form, store=store, threads=threads, progress=progress)
        tokenizer = write_tokenizer(trained, folder, beside=form == "hf")
        if tokenizer is not None and form in ANSWERING and trained.spec.kind.predictions is not None:
            progress(_STAGE, {"doing": "compare answers"})
            made["answers"] = check_answers(trained, folder, store, form=form)
        labels = list(trained.spec.labels)
        (folder / "labels.json").write_text(json.dumps(labels, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        record = {
            "model": str(ref),
            "weights_sha256": TrainedFacts.of(trained.manifest).weights_sha256,
            "format": form,
            "task": trained.spec.task,
            "max_length": trained.spec.max_length,
            "tokenizer": tokenizer,
            **made,
        }
        (folder / "export.json").write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {**record, "to": str(to), "bytes": size}


def check_export(form: str, to: Path) -> None:
    """Check what was asked for, before the work.

    Raises:
        SettingsError: no such format, or a folder that is not empty or cannot be made.
    """
    if form not in FORMATS:
        raise SettingsError(f"--format {form} is not valid: expected {', '.join(FORMATS)}")
    if to.exists() and not to.is_dir():
        raise SettingsError(f"--to {to} is a file: expected a new folder, or an empty one")
    if to.is_dir() and any(to.iterdir()):
        raise SettingsError(f"--to {to} is not empty: expected a new folder, or an empty one. Choose another, or empty it")
    above = next(parent for parent in to.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise SettingsError(f"--to {to} cannot be made: no right to write in {above}. Choose another folder")


def _write(trained: Any, folder: Path, *, form: str, store: ArtifactStore, threads: int, progress: Progress) -> dict[str, Any]:
    progress(_STAGE, {"doing": f"write {form}"})
    if form == "hf":
        from ts4s_core.handover.hugging_face import write_hugging_face

        return write_hugging_face(trained, folder)
    if form == "torch":
        from ts4s_core.handover.program import write_program

        return write_program(trained, folder)
    if form == "onnx":
        from ts4s_core.handover.plain_file import write_plain_file

        return write_plain_file(trained, folder)
    from ts4s_core.handover.quantised import write_quantised

    return write_quantised(trained, folder, form=form, store=store, threads=threads, progress=progress)


@contextmanager
def _whole(to: Path) -> Iterator[Path]:
    """A temporary folder beside ``to`` that becomes it at the end, or goes."""
    target = to.absolute()
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".ts4s-export-", dir=target.parent))
    except OSError as exc:
        raise SettingsError(f"--to {to} cannot be made: {exc.strerror or exc}. Choose another folder") from exc
    done = False
    try:
        yield temporary
        temporary.chmod(0o755)
        try:
            os.rename(temporary, target)  # replaces an empty folder, and nothing else
        except OSError as exc:
            raise StoreError(f"--to {to} cannot be written: {exc.strerror or exc}. Choose another folder") from exc
        done = True
    finally:
        if not done:
            shutil.rmtree(temporary, ignore_errors=True)
            for parent in made:
                if parent.is_dir() and not any(parent.iterdir()):
                    parent.rmdir()
