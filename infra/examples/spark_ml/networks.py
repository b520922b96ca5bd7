"""The networks of the examples. They stand in a module of their own, so that workers can import them."""

from __future__ import annotations

import torch
from torch import nn


class Cnn(nn.Module):
    """A small convolutional network for digits of 8 x 8 pixels."""

    def __init__(self, channels: int = 8, dropout: float = 0.25) -> None:
        super().__init__()
        self.channels = channels
        self.dropout = dropout
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(8 * channels, 10))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """``(B, 1, 8, 8)`` to the logits ``(B, 10)``."""
        return self.head(self.features(pixels))


def dnn(hidden: int = 32) -> nn.Module:
    """A network with one hidden layer, as a function makes it."""
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


class AutoEncoder(nn.Module):
    """64 pixels to a few numbers and back."""

    def __init__(self, code: int = 12) -> None:
        super().__init__()
        self.code = code
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, code))
        self.decoder = nn.Sequential(nn.Linear(code, 32), nn.ReLU(), nn.Linear(32, 64))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """``(B, 64)`` to ``(B, 64)``."""
        return self.decoder(self.encoder(pixels))
