"""One slice of fuzzing one target in a process of its own: libFuzzer, guided by the coverage of ts4s_core.

An exception that is not one of ours is noted (once for each place that it comes from) and fuzzing goes on; a crash, a hang and
too much memory end the process, and libFuzzer leaves the file that did it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ts4s_core"], enable_loader_override=False):
    from every_target import target_of

    import ts4s_core
    from ts4s_core.errors import Ts4sError

    TARGET = target_of(sys.argv[1])

_PACKAGE = str(Path(ts4s_core.__file__).parent)


def _place_of(error: BaseException) -> str:
    """Type and the innermost line of ts4s_core that it passed: one bug, one name."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_PACKAGE)]
    where = f"{Path(frames[-1].filename).relative_to(_PACKAGE)}:{frames[-1].name}:{frames[-1].lineno}" if frames else "the target"
    return f"{type(error).__name__} in {where}"


def main() -> None:
    """Arguments: the target, the folder of findings, then libFuzzer's."""
    findings = Path(sys.argv[2])
    seen: set[str] = set()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    # Most readers are given a file: in memory where the system has such a folder, or the disk is what is tried.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        folder = Path(made)

        def test_one(data: bytes) -> None:
            try:
                TARGET.read(data, folder)
            except Ts4sError:
                pass
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as exc:
                place = _place_of(exc)
                if place not in seen:
                    seen.add(place)
                    stem = hashlib.sha256(place.encode()).hexdigest()[:12]
                    (findings / stem).write_bytes(data)
                    (findings / f"{stem}.txt").write_text(
                        f"{place}\n{''.join(traceback.format_exception(exc))}", encoding="utf-8"
                    )

        atheris.Setup([sys.argv[0], *sys.argv[3:]], test_one, custom_mutator=TARGET.change)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
