"""The embedded example data: docstrings of installed libraries, labelled by library.

Source files are parsed with :mod:`ast`; nothing is imported or run. A library's own name is taken out of its texts, so
that a model has to tell libraries apart by what they are about.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ts4s_core.errors import SourceError, listed

# Installed by the project's own dependencies, and well apart in subject: plots, graphs, workflows, databases.
DEFAULT_LIBRARIES = ("matplotlib", "networkx", "prefect", "sqlalchemy")
DEFAULT_ROWS = 3_000
MIN_CHARS = 100
# Longer texts are hardly easier to tell apart (a linear model gets 0.942 here and 0.946 at 300 characters), but training
# takes longer by as much; shorter than MIN_CHARS they say little of their subject.
MAX_CHARS = 250
_READ_CHARS = 4 * MAX_CHARS
# Names of this length and above are cut out of longer words too ("PandasArray"); shorter ones are ordinary letters ("rich").
_LONG_NAME_CHARS = 5
_ALIASES = {
    "matplotlib": ("mpl", "plt", "pyplot"),
    "networkx": ("nx",),
    "numpy": ("np",),
    "onnxruntime": ("ort",),
    "pandas": ("pd",),
    "pyarrow": ("pa",),
    "pyspark": ("spark",),
    "scikit-learn": ("sklearn", "scikit learn", "scikit"),
    "scipy": ("sp",),
    "seaborn": ("sns",),
    "sqlalchemy": ("sa",),
    "tensorflow": ("tf",),
}
_SKIPPED = re.compile(r"(^|/)(tests?|testing|conftest\.py|_?vendor(ed)?|externals|_externals)(/|$)|(^|/)test_[^/]*$|^\.\.")
_HOLDERS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def libraries_of(source: str) -> tuple[str, ...]:
    """The libraries that ``data.source`` names, or the default ones; alphabetical, each once."""
    named = {re.sub(r"[-_.]+", "-", part.strip()).lower() for part in source.split(",") if part.strip()}
    return tuple(sorted(named)) or DEFAULT_LIBRARIES


def read_docstrings(libraries: Sequence[str], *, rows: int) -> list[tuple[str, str]]:
    """``(library, text)`` pairs: at most ``rows``, as many of each library as there are, chosen by the hash of the text.

    A text that two libraries share (copied code) belongs to neither.

    Raises:
        SourceError: if a library is not installed, or brings no docstrings.
    """
    texts = {library: _texts_of(library) for library in libraries}
    shared = Counter(text for found in texts.values() for text in found)
    pairs: list[tuple[str, str]] = []
    for number, library in enumerate(libraries):
        quota = rows // len(libraries) + (number < rows % len(libraries))
        own = sorted((text for text in texts[library] if shared[text] == 1), key=_digest)
        if not own:
            raise SourceError(
                f"data.source {library} has no docstring of {MIN_CHARS} characters or more in its files: name another library"
            )
        pairs.extend((library, text) for text in own[:quota])
    return pairs


def cleaned(text: str, names: re.Pattern[str]) -> str:
    """A docstring on one line, without the library's names, cut to its first ``MAX_CHARS`` characters."""
    text = text[:_READ_CHARS].encode("utf-8", "ignore").decode("utf-8")
    while names.search(text):
        text = names.sub("", text)
    text = " ".join(text.split())
    return text if len(text) <= MAX_CHARS else text[:MAX_CHARS].rsplit(" ", 1)[0]


def names_pattern(library: str, modules: Sequence[str]) -> re.Pattern[str]:
    """What to take out of a library's texts: its name, its modules, its usual import alias, with the dot that follows."""
    names = {library, library.replace("-", "_"), library.replace("-", " "), *modules, *_ALIASES.get(library, ())}
    long_names = sorted((name for name in names if len(name) >= _LONG_NAME_CHARS), key=lambda name: (-len(name), name))
    short_names = sorted((name for name in names if len(name) < _LONG_NAME_CHARS), key=lambda name: (-len(name), name))
    parts = [re.escape(name) for name in long_names]
    parts += [f"(?<![A-Za-z]){re.escape(name)}(?![A-Za-z])" for name in short_names]
    return re.compile(rf"(?:{'|'.join(parts)})(?:\.(?=\w))?", re.IGNORECASE)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()


def _texts_of(library: str) -> set[str]:
    distribution = _distribution(library)
    files = [file for file in distribution.files or () if file.suffix == ".py" and not _SKIPPED.search(file.as_posix())]
    if not files:
        raise SourceError(f"data.source {library} is installed without a list of its Python files: name another library")
    modules = sorted({file.parts[0].removesuffix(".py") for file in files})
    names = names_pattern(library, modules)
    texts: set[str] = set()
    for file in sorted(files, key=str):
        texts.update(cleaned(text, names) for text in _docstrings_in(Path(str(file.locate()))))
    return {text for text in texts if len(text) >= MIN_CHARS}


def _distribution(library: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(library)
    except importlib.metadata.PackageNotFoundError:
        pass
    found = importlib.metadata.packages_distributions().get(library.replace("-", "_"), [])
    if len(found) == 1:
        return importlib.metadata.distribution(found[0])
    raise SourceError(
        f"data.source {library} is not an installed library: with data.format docstrings give installed libraries, "
        f"separated by commas, e.g. {listed(DEFAULT_LIBRARIES)}, or nothing for these"
    )


def _docstrings_in(file: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a library's own invalid escapes
            tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return  # templates and Python of other versions are part of some libraries
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, _HOLDERS):
            text = ast.get_docstring(node)
            if text:
                yield text
            waiting.extend(child for child in node.body if isinstance(child, _HOLDERS))
