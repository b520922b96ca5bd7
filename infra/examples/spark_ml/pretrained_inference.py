"""A network that was trained with plain PyTorch becomes a stage of a pipeline by one call, and comes back by one."""

from __future__ import annotations

from typing import Any

import digits
import torch
from networks import dnn
from pyspark.ml import Pipeline
from pyspark.sql import SparkSession

from ts4s_core.spark import TorchModel


def pretrained(train: Any) -> torch.nn.Module:
    """A network, trained without Spark."""
    torch.manual_seed(0)
    rows = torch.tensor([[row[name] for name in digits.PIXELS] + [row["label"]] for row in train.collect()])
    network = dnn(hidden=32)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _step in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(rows[:, :64]), rows[:, 64].long()).backward()
        optimizer.step()
    return network.eval()


def run(spark: SparkSession) -> dict[str, Any]:
    """Predict with a pretrained network, behind stages that are fitted already."""
    train, test = digits.train_and_test(spark)
    network = pretrained(train)
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    prepared = Pipeline(stages=[digits.assembler()]).fit(train)
    model = TorchModel.from_torch(network, labels=names).attach_to(prepared)
    predicted = model.transform(test)
    again = model.stages[-1].to_torch()
    return {
        "accuracy": digits.accuracy(predicted),
        "first": predicted.first()["predictedLabel"],
        "same": all(torch.equal(one, two) for one, two in zip(network.parameters(), again.parameters(), strict=True)),
    }


if __name__ == "__main__":
    digits.main(run)
