"""The feature network φ(x, t) that systems share: its settings, and the network they name.

A new network is a class of networks/ and a name here.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from dmmd_kernels.networks.features import ConvFeatures, IdentityFeatures, MLPFeatures
from dmmd_kernels.networks.unet import UNetFeatures
from dmmd_kernels.runs.settings import (
    AT_LEAST_0,
    AT_LEAST_1,
    BELOW_1,
    EACH_AT_LEAST_1,
    SystemSettings,
    free,
)


@dataclass(frozen=True, kw_only=True)
class BackboneSettings(SystemSettings):
    """The network"""

    features: Annotated[
        Literal["identity", "mlp", "conv", "unet"], "the feature network φ(x, t)"
    ] = "identity"
    feature_count: Annotated[int, "K, the number of features (all but identity)", AT_LEAST_1] = 64
    feature_width: Annotated[
        int, "hidden units (mlp) or first channels (conv, unet)", AT_LEAST_1
    ] = 64
    mlp_layers: Annotated[int, "hidden layers of the mlp", AT_LEAST_1] = 2
    mlp_waves: Annotated[
        int,
        "F: the mlp also sees cos and sin of π 2^k x / 2, k < F; for data with edges",
        AT_LEAST_0,
    ] = 0
    unet_multipliers: Annotated[
        tuple[int, ...],
        "channels at each resolution, finest first, in units of feature_width",
        EACH_AT_LEAST_1,
    ] = (1, 2, 2, 2)
    unet_blocks: Annotated[int, "residual blocks at each resolution", AT_LEAST_1] = 2
    unet_attention: Annotated[tuple[int, ...], "heights at which there is attention"] = (16,)
    unet_readout: Annotated[
        Literal["image", "dense", "pooled"], "how the last map becomes K features, see unet.Readout"
    ] = "dense"
    dropout: Annotated[
        float, "chance that an activation of the unet is dropped in training", BELOW_1
    ] = 0.0
    backbone: Annotated[
        Literal["own", "diffusers"], "of the unet: ours, or UNet2DModel of that library"
    ] = "own"
    precision: Annotated[
        Literal["float32", "bfloat16"], "of the network; MMD and penalties are in float32"
    ] = "float32"
    channels_last: Annotated[bool, "memory layout of the unet, faster on most GPUs"] = free(False)
    compile: Annotated[bool, "torch.compile where the network is differentiated once"] = free(False)


def make_features(
    settings: BackboneSettings, shape: torch.Size, count: int | None = None
) -> torch.nn.Module:
    """The feature network for samples of `shape`, from torch's global random state.

    Args:
        count: K; feature_count when None.

    Raises:
        ValueError: it can't take samples of this shape.
        ImportError: backbone=diffusers, and that library is not here.
    """
    count, width = count or settings.feature_count, settings.feature_width
    if settings.features == "identity":
        return IdentityFeatures()
    if settings.features == "mlp":
        layers, waves = settings.mlp_layers, settings.mlp_waves
        points = shape.numel()
        return MLPFeatures(points, count, width, layers=layers, input_frequencies=waves)
    if len(shape) != 3:
        raise ValueError(f"features={settings.features} needs images (C, H, W), got {tuple(shape)}")
    image = (shape[0], shape[1], shape[2])
    if settings.features == "conv":
        return ConvFeatures(image, count, width)
    return UNetFeatures(
        image,
        count,
        width,
        multipliers=settings.unet_multipliers,
        blocks=settings.unet_blocks,
        attention=settings.unet_attention,
        dropout=settings.dropout,
        readout=settings.unet_readout,
        backbone=settings.backbone,
        channels_last=settings.channels_last,
    )
