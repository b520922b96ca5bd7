"""Programs whose classes nobody can import: on standard input, as ``python -m``, without a guard, and cells of a notebook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HEAD = """
import json, sys
import torch
from torch import nn
from pyspark.sql import SparkSession
from ts4s_core.spark import TorchEstimator, TorchModel
"""
CELLS = [
    HEAD,
    """
class Net(nn.Module):
    def __init__(self, hidden=6):
        super().__init__()
        self.first, self.last = nn.Linear(4, hidden), nn.Linear(hidden, 2)

    def forward(self, x):
        return self.last(act(self.first(x)))

def act(x):
    return torch.tanh(x) * scale

scale = 3.0

class Focal(nn.Module):
    def forward(self, output, target):
        chosen = torch.log_softmax(output, 1).gather(1, target[:, None])[:, 0]
        return -((1 - chosen.exp()) ** 2 * chosen).mean()
""",
    """
spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
rows = [([float(at % 7), 1.0, 2.0, float(at % 2)], at % 2) for at in range(60)]
table = spark.createDataFrame(rows, "features array<double>, label int")
found = []
for module in (Net(), Net, lambda: Net(4)):
    torch.manual_seed(1)
    estimator = TorchEstimator(module=module, loss=Focal(), labelKind="class", maxIter=2, workers=2)
    model = estimator.fit(table)
    row = model.transform(table).first()
    ours = model.to_torch()(torch.tensor([row["features"]])).squeeze(0).tolist()
    model.write().overwrite().save(sys.argv[1])
    found.append([row["rawPrediction"].toArray().tolist(), ours, model.weights_sha256])
attached = TorchModel.from_torch(Net()).transform(table).count()
print(json.dumps({"found": found, "attached": attached}))
spark.stop()
""",
]
READER = (
    HEAD
    + """
spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
table = spark.createDataFrame([([0.0, 1.0, 2.0, 0.0], 0)], "features array<double>, label int")
model = TorchModel.load(sys.argv[1])
print(json.dumps([model.transform(table).first()["rawPrediction"].toArray().tolist(), model.weights_sha256]))
spark.stop()
"""
)
#: What a kernel does: cells run one by one in a module ``__main__`` that has no file, under names of files that are not there.
KERNEL = """
import linecache, sys, types
cells = {cells!r}
main = sys.modules["__main__"] = types.ModuleType("__main__")
for number, cell in enumerate(cells):
    name = f"/tmp/ipykernel_77/{{number}}.py"
    linecache.cache[name] = (len(cell), None, cell.splitlines(True), name)
    exec(compile(cell, name, "exec"), main.__dict__)
"""


def run(arguments: list[str], folder: Path, *, text: str | None = None) -> Any:
    """What a program's last line says."""
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        input=text,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
@pytest.mark.parametrize("kind", ["standard input", "python -m", "unguarded script", "notebook"])
def test_classes_of_the_program_are_trained_and_saved(tmp_path: Path, kind: str) -> None:
    program, saved = "".join(CELLS), str(tmp_path / "saved")
    if kind == "standard input":
        said = run(["-", saved], tmp_path, text=program)
    elif kind == "notebook":
        said = run(["-c", KERNEL.format(cells=CELLS), saved], tmp_path)
    elif kind == "python -m":
        (tmp_path / "shop").mkdir()
        (tmp_path / "shop" / "__init__.py").touch()
        (tmp_path / "shop" / "train.py").write_text(program)
        said = run(["-m", "shop.train", saved], tmp_path)
    else:
        (tmp_path / "train_alone.py").write_text(program)
        said = run(["train_alone.py", saved], tmp_path)
    assert said["attached"] == 60
    for spark, here, _hash in said["found"]:
        assert spark == pytest.approx(here, rel=1e-5, abs=1e-6)
    if kind in ("standard input", "notebook"):  # nobody could import it, so its graph was saved
        logits, weights = run(["-c", READER, saved], tmp_path)
        assert weights == said["found"][-1][2]
        assert logits == pytest.approx(said["found"][-1][0], rel=1e-5, abs=1e-6)
    else:
        description = json.loads(next(Path(saved).rglob("model.json")).read_text())
        assert any(entry["class"].endswith(":Net") for entry in description["module"]["objects"])
