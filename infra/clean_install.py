"""Build the wheel and install it into an environment of its own, from a registry alone.

python infra/clean_install.py FOLDER

Makes ``FOLDER/dist`` (by ``python -m build``: the source archive, and the wheel from that archive) and ``FOLDER/env``, where the
wheel is installed as a user does it: the ranges of pyproject.toml, resolved to the newest versions that there are, and nothing of
this repository. torch comes as the registry has it, which is a build for GPUs: some 3 GB to download, and 6 GB in the folder.
Prints the environment's Python and the versions of what was installed, as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHOWN = ("torch", "torchvision", "onnx2torch", "transformers", "pyspark", "pyarrow", "numpy", "prefect")
VERSIONS = "import json, sys; from importlib.metadata import version; print(json.dumps({n: version(n) for n in sys.argv[1:]}))"


def install(folder: Path) -> Path:
    """Build and install; returns the environment's Python."""
    builder, environment = folder / "builder", folder / "env"
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SPARK_HOME")}

    def run(*words: str | Path) -> None:
        subprocess.run([str(word) for word in words], check=True, cwd=folder, env=environ, stdout=sys.stderr)

    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    for place in (builder, environment):
        run(sys.executable, "-m", "venv", place)
    run(builder / "bin" / "python", *pip, "build")
    run(builder / "bin" / "python", "-m", "build", "--outdir", folder / "dist", ROOT)
    (wheel,) = (folder / "dist").glob("ts4s-*.whl")
    run(environment / "bin" / "python", *pip, wheel)
    run(environment / "bin" / "python", "-m", "pip", "check")
    return environment / "bin" / "python"


def versions(python: Path) -> dict[str, str]:
    """Of the libraries that matter most."""
    done = subprocess.run([str(python), "-P", "-c", VERSIONS, *SHOWN], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new folder, outside of the repository")
    folder = parser.parse_args().folder.absolute()
    if folder.is_relative_to(ROOT):
        raise SystemExit(
            f"error: {folder} is in the repository: expected a folder outside of it, where nothing of it is imported"
        )
    folder.mkdir(parents=True)
    python = install(folder)
    print(json.dumps({"python": str(python), **versions(python)}))


if __name__ == "__main__":
    main()
