"""Small networks for scikit-learn's digits, and how often a table of their predictions is right."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def network(seed: int = 0, *, normalised: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    middle = [nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2)] if normalised else [nn.ReLU()]
    return nn.Sequential(nn.Linear(64, 32), *middle, nn.Linear(32, 10))


def accuracy(table: Any) -> float:
    return float(table.where("prediction = label").count() / table.count())
