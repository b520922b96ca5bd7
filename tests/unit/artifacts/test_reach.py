"""A step's key follows the code that the step reaches, and no other."""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from edited_sources import add_code, edit

from ts4s_core.artifacts.versions.reach import PACKAGE, Sources, installed_sources
from ts4s_core.data import prepare as labelled
from ts4s_core.data.corpus import prepare as text
from ts4s_core.evaluation.steps import classifier, language_model
from ts4s_core.language import generation_step, network_step
from ts4s_core.models import import_step
from ts4s_core.onnx.exporting import step as export_step
from ts4s_core.prediction import job as prediction
from ts4s_core.spark.ml.fit import FACTORIES
from ts4s_core.task_kinds.classification import CLASSIFICATION
from ts4s_core.task_kinds.language_model import LANGUAGE_MODEL
from ts4s_core.training.driver import train_step
from ts4s_core.training.driver.train_step import Factories

WINDOWS = ("training/batches/text_windows.py",)
ELSEWHERE = ("handover", "planning", "spark", "pipeline")
#: A base's tokenizer is read whole when it is taken; no row is.
ROWS = ("data/prepare.py", "data/scan.py", "data/sources.py", "data/formats", "data/corpus")
REPORT = ("evaluation/report/page.py", "evaluation/report/model_sections.py", "evaluation/report/charts.py")
#: Of each step: its entries, files that it reaches, and files or whole folders that it does not.
STEPS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "export": (
        export_step.ENTRIES,
        ("onnx/exporting/export_graph.py", "onnx/sources/hub.py", "artifacts/writer.py"),
        ("training", "evaluation", *ROWS, "models", "onnx/importing", "language", "prediction", *ELSEWHERE),
    ),
    "import": (
        import_step.ENTRIES,
        ("models/heads.py", "onnx/importing/parity.py", "onnx/converters/shapes.py", "onnx/rewriting/attention.py"),
        ("training", "evaluation", *ROWS, "onnx/exporting", "language", "prediction", *ELSEWHERE),
    ),
    "make a small network": (
        network_step.ENTRIES,
        ("models/small_networks.py", "models/initial_values.py", "language/word_vector_file.py"),
        ("training", "evaluation", "data/prepare.py", "onnx/exporting", "prediction", *ELSEWHERE),
    ),
    "prepare labelled texts": (
        labelled.ENTRIES,
        ("data/prepare.py", "data/card.py", "data/formats/csv_rows.py", "data/tokenizers.py"),
        ("training", "evaluation", "onnx", "models", "data/corpus", "language", "prediction", *ELSEWHERE),
    ),
    "prepare running text": (
        text.ENTRIES,
        ("data/corpus/window_starts.py", "data/corpus/tokenizer_training.py", "data/side_files.py"),
        ("training", "evaluation", "onnx", "models", "data/prepare.py", "language", "prediction", *ELSEWHERE),
    ),
    "train": (
        (*Factories().entries, *CLASSIFICATION.facets(*train_step.FACETS)),
        (
            "training/driver/attempts.py",
            "training/step/engine.py",
            "training/optimizers/adamw.py",
            "training/strategies/hogwild.py",
            "training/worker/dataset_rows.py",
            "models/model_folder.py",
            "onnx/converters/reductions.py",
        ),
        (
            "evaluation",
            "language",
            "prediction",
            "modules",
            "data/prepare.py",
            "data/corpus",
            "training/batches/text_windows.py",
            *ELSEWHERE,
        ),
    ),
    "train a language model": (
        (*Factories().entries, *LANGUAGE_MODEL.facets(*train_step.FACETS)),
        ("training/batches/text_windows.py", "training/step/objectives.py", "models/small_networks.py"),
        ("evaluation", "language", "prediction", "modules", "data/prepare.py", "data/corpus/prepare.py", *ELSEWHERE),
    ),
    "fit in Spark ML": (
        FACTORIES.entries,
        ("modules/job_module.py", "modules/table_rows.py", "training/optimizers/any_torch.py", "training/step/engine.py"),
        ("evaluation", "language", "prediction", "data/prepare.py", "onnx/exporting", *ELSEWHERE),
    ),
    "evaluate a classifier": (
        classifier.ENTRIES,
        (*REPORT, "evaluation/gate/decision.py", "evaluation/figures/drift.py", "evaluation/scoring/score_rows.py"),
        ("training/driver", "training/step", "training/worker", "language", "data/prepare.py", "onnx/exporting", *ELSEWHERE),
    ),
    "evaluate a language model": (
        language_model.ENTRIES,
        ("evaluation/report/page.py", "evaluation/report/language_report.py", "evaluation/gate/language_evidence.py"),
        ("training/driver", "training/step", "training/worker", "data/prepare.py", "data/corpus/prepare.py", *ELSEWHERE),
    ),
    "generate": (
        generation_step.ENTRIES,
        ("language/sampling.py", "language/copy_guard.py", "models/small_networks.py"),
        ("training", "evaluation", "prediction", "data/corpus/prepare.py", *ELSEWHERE),
    ),
    "predict": (
        (*prediction.ENTRIES, *CLASSIFICATION.facets(*prediction.FACETS)),
        ("prediction/runners.py", "prediction/result_table.py", "models/plain_onnx/lower.py", "data/formats/parquet.py"),
        ("training", "evaluation", "language", "data/prepare.py", *ELSEWHERE),
    ),
}


def files_of(package: Path, places: tuple[str, ...]) -> list[Path]:
    named = [package / place for place in places]
    found = [file for path in named for file in ([path] if path.suffix else path.rglob("*.py"))]
    assert len(found) >= len(places)
    return found


def reword(source: str) -> str:
    """The same code with another docstring, more comments, and lines that stand elsewhere."""
    docstring, rest = source.split('"""', 2)[1:]
    rest = rest.replace("\n    return ", "\n    # Another comment.\n\n    return ").replace("\n\n\n", "\n\n\n\n# And one.\n")
    return f'"""Other words.{docstring}"""\n# A comment.{rest}'


@pytest.mark.parametrize("step", STEPS)
def test_a_key_follows_what_its_step_reaches_and_nothing_else(step: str, package: Path) -> None:
    entries, reached, not_reached = STEPS[step]
    before = Sources(package).sha256(entries)
    assert before == installed_sources().sha256(entries)
    for file in files_of(package, not_reached):
        edit(file, add_code)
    assert Sources(package).sha256(entries) == before
    seen = {before}
    for file in files_of(package, reached):
        edit(file, add_code)
        seen.add(Sources(package).sha256(entries))
    assert len(seen) == 1 + len(reached)


@pytest.mark.parametrize("step", STEPS)
def test_words_for_readers_are_in_no_key(step: str, package: Path) -> None:
    entries = STEPS[step][0]
    before = Sources(package).sha256(entries)
    for file in package.rglob("*.py"):
        edit(file, reword)
    edit(package / "settings" / "groups.py", lambda source: source.replace('description="', 'description="In other words: '))
    assert Sources(package).sha256(entries) == before


@pytest.mark.parametrize(
    ("change", "to"),
    [
        ("return 2 * x", "return 3 * x"),
        ("return 2 * x", "return 2 * (x)  # the same"),
        ("def double(x):", "def double(x=1):"),
        ("LIMIT = 4", "LIMIT = 4.0"),
        ('NAME = "a"', "NAME = 'a'"),
        ('NAME = "a"', 'NAME = b"a"'),
        ("return 2 * x", "yield 2 * x"),
        ("x: (yield) = 1", "x: (yield 1)"),
        ('"""What it does."""', '"""What else it does."""'),
    ],
)
def test_a_hash_is_over_what_the_code_does(change: str, to: str, tmp_path: Path) -> None:
    source = 'LIMIT = 4\nNAME = "a"\ndef double(x):\n    """What it does."""\n    return 2 * x\n\ndef g():\n    x: (yield) = 1\n'
    assert change in source
    (tmp_path / "one.py").write_text(source)
    (tmp_path / "__init__.py").touch()
    before = Sources(tmp_path).sha256([f"{PACKAGE}.one"])
    (tmp_path / "one.py").write_text(source.replace(change, to))
    alike = "the same" in to or to.startswith('"""') or to == "NAME = 'a'"
    assert (Sources(tmp_path).sha256([f"{PACKAGE}.one"]) == before) is alike


def test_names_in_strings_are_followed_and_those_of_kinds_are_not(tmp_path: Path) -> None:
    for place, source in {
        "__init__.py": "",
        "a/__init__.py": "",
        "a/step.py": f'LATE = "{PACKAGE}.a.late:x"\nfrom {PACKAGE}.task_kinds.kind import K\nif K:\n import {PACKAGE}.a.inner\n',
        "a/late.py": f'"""{PACKAGE}.a.never"""\nTHERE = ("{PACKAGE}.a", "see {PACKAGE}.a.never", "{PACKAGE}.a.none")\n',
        "a/inner.py": "",
        "a/never.py": "",
        "a/facet.py": "",
        "task_kinds/__init__.py": "",
        "task_kinds/kind.py": f'K = "{PACKAGE}.a.facet:Objective"\n',
    }.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(source)
    step, facet = f"{PACKAGE}.a.step", f"{PACKAGE}.a.facet"
    base = [PACKAGE, f"{PACKAGE}.a", f"{PACKAGE}.a.inner", f"{PACKAGE}.a.late", step]
    assert Sources(tmp_path).reached([step, "their.module:factory"]) == base
    assert Sources(tmp_path).reached([step, f"{facet}:Objective"]) == sorted([*base, facet])
    with pytest.raises(ValueError, match=rf"{PACKAGE}\.a\.none"):
        Sources(tmp_path).reached([f"{PACKAGE}.a.none:x"])


def test_shipped_as_a_zip_a_step_has_the_same_key(package: Path, tmp_path: Path) -> None:
    archive = tmp_path / "shipped.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in package.rglob("*.py"):
            file.write(path, path.relative_to(package.parent))
    code = (
        f"import sys; sys.path.insert(0, {str(archive)!r})\n"
        "from ts4s_core.artifacts.versions import keys\n"
        f"assert keys.__file__.startswith({str(archive)!r}), keys.__file__\n"
        f"sys.stdout.write(keys.step_key('trained', entries={Factories().entries!r}, inputs={{}}, settings={{}}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    from ts4s_core.artifacts.versions.keys import step_key

    assert done.stdout == step_key("trained", entries=Factories().entries, inputs={}, settings={}), done.stderr


def test_hashing_what_training_reaches_costs_less_than_a_third_of_a_second(package: Path) -> None:
    for file in package.rglob("*.py"):  # other bytes, so that nothing of this process is known
        edit(file, lambda source: f"{source}# \n")
    started = time.process_time()
    Sources(package).sha256(Factories().entries)
    # Five times what an idle machine takes; the time is the processor's, not the clock's.
    assert time.process_time() - started < 1.5
