"""Small networks with what people's segmentation networks have, and exporters and libraries stumble over.

Each keeps the contract of docs/how-to/own-network.md, or breaks it in one way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segclip_deploy.artifacts.model_spec import ModelSpec


class Base(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = 32
        self.stem = nn.Sequential(nn.Conv2d(3, width, 7, 4, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Conv2d(width, width, 1)
        self.project = nn.Linear(spec.text_width, width)
        self.width = width

    def change(self, x: Tensor) -> Tensor:
        return x

    def forward(self, image: Tensor, classes: Tensor, texts: Tensor) -> Tensor:
        pixels = F.normalize(self.head(self.change(self.stem(image))), dim=1)
        return 10 * torch.einsum("bchw,kc->bkhw", pixels, F.normalize(self.project(classes), dim=1))


class Deform(Base):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        from torchvision.ops import DeformConv2d

        self.offsets = nn.Conv2d(self.width, 18, 3, 1, 1)
        self.deform = DeformConv2d(self.width, self.width, 3, padding=1)

    def change(self, x: Tensor) -> Tensor:
        return self.deform(x, self.offsets(x))


class Conditional(Base):
    def change(self, x: Tensor) -> Tensor:
        if x.mean() > 0.1:  # as some "skip if empty" code has
            x = x * 1.1
        return x


class Loop(Base):
    def change(self, x: Tensor) -> Tensor:
        while x.abs().max() > 1:
            x = x / 2
        return x


class Choice(Base):
    def change(self, x: Tensor) -> Tensor:
        return x if x.min() < 0 < x.max() else 2 * x


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.special.i1(x)


class NoForm(Base):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.bessel = Bessel()

    def change(self, x: Tensor) -> Tensor:
        return self.bessel(x)


class NoFormEither(Base):
    def forward(self, image: Tensor, classes: Tensor, texts: Tensor) -> Tensor:
        x = torch.linalg.eigvalsh(image[..., :4, :4]).sum()
        return super().forward(image, classes, texts) + x


class Fails(Base):
    def change(self, x: Tensor) -> Tensor:
        return x.reshape(3, 7)


class Small(Base):
    def change(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)


class Pair(Base):
    def forward(self, image: Tensor, classes: Tensor, texts: Tensor) -> Tensor:
        return (super().forward(image, classes, texts), texts)  # type: ignore[return-value]


class BadFold(Base):
    def fold(self, bank: object) -> nn.Module:
        raise NotImplementedError("no fold yet")


def broken(spec: ModelSpec) -> nn.Module:
    raise KeyError("width")


def number(spec: ModelSpec) -> int:
    return 3
