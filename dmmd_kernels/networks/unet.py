"""Features φ(x, t) of images by a U-Net of the DDPM family (Ho et al., 2020, appendix B).

Residual blocks with group normalisation and SiLU, attention at chosen resolutions, a sinusoidal
embedding of t, dropout; after Ronneberger et al. (2015) every map of the way down is seen again on
the way up. Nothing normalises over the batch, so features of an image do not depend on its
neighbours, and every layer can be differentiated twice, as the gradient penalty needs.

The paper says neither K nor how a U-Net becomes a vector; `Readout` has the ways, `unet_readout`
in the settings chooses.
"""

import math

import torch
from torch import Tensor, nn

READOUTS = ("image", "dense", "pooled")


class UNetFeatures(nn.Module):
    """φ(x, t) for images: (x (T, B, C, H, W), t (T,)) → (T, B, K)."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        features: int,
        width: int = 128,
        *,
        multipliers: tuple[int, ...] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: tuple[int, ...] = (16,),
        dropout: float = 0.0,
        readout: str = "dense",
        backbone: str = "own",
        channels_last: bool = False,
    ) -> None:
        """
        Args:
            shape: (C, H, W) of an image; H and W are halved len(multipliers) - 1 times.
            features: K; "image" ignores it and has C H W.
            width: channels at full resolution.
            multipliers: channels at each resolution, finest first, in units of width.
            blocks: residual blocks at each resolution on the way down; one more on the way up.
            attention: heights at which every block is followed by attention.
            dropout: chance that an activation inside a block is dropped, in training.
            readout: "image", "dense" or "pooled", see Readout.
            backbone: "own", or "diffusers" for UNet2DModel of that library, of the same sizes.
            channels_last: lay the maps out with channels innermost.

        Raises:
            ValueError: the image can't be halved often enough.
            ImportError: backbone is "diffusers", and that library is not here.
        """
        super().__init__()
        halvings = 2 ** (len(multipliers) - 1)
        if shape[1] % halvings or shape[2] % halvings:
            raise ValueError(
                f"UNetFeatures: height and width must be multiples of {halvings} for "
                f"{len(multipliers)} resolutions, got {shape}; give fewer multipliers"
            )
        make = {"own": UNet, "diffusers": DiffusersUNet}[backbone]
        self.body = make(shape, width, multipliers, blocks, attention, dropout)
        self.readout = Readout((width, *shape[1:]), shape[0], features, readout)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        for kernel in self.parameters():
            if kernel.ndim == 4:
                kernel.data = kernel.data.contiguous(memory_format=self.format)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (T, B, C, H, W), t (T,) → (T, B, K)"""
        images = x.flatten(0, 1).contiguous(memory_format=self.format)
        h = self.body(images, t.repeat_interleave(x.shape[1]))
        return self.readout(h).unflatten(0, x.shape[:2])


class Readout(nn.Module):
    """From the last map (N, width, H, W) to features (N, K).

    "image": the picture that DDPM's network ends in, flattened: K = C H W, one feature a pixel.
    "dense": four channels of every place, then a linear map to K: features know where things are.
    "pooled": the mean over all places, then a linear map to K: they know what there is.
    """

    def __init__(
        self, shape: tuple[int, int, int], channels: int, features: int, kind: str
    ) -> None:
        super().__init__()
        if kind not in READOUTS:
            raise ValueError(f"Readout: kind must be one of {READOUTS}, got {kind!r}")
        self.kind, (width, height, breadth) = kind, shape
        self.norm = normalised(width)
        if kind == "image":
            self.head: nn.Module = nn.Conv2d(width, channels, 3, padding=1)
        elif kind == "pooled":
            self.head = nn.Linear(width, features)
        else:
            self.squeeze = nn.Conv2d(width, 4, 1)
            self.head = nn.Linear(4 * height * breadth, features)

    def forward(self, h: Tensor) -> Tensor:
        """(N, width, H, W) → (N, K)"""
        h = nn.functional.silu(self.norm(h))
        if self.kind == "image":
            return self.head(h).flatten(1)
        return self.head(h.mean((2, 3)) if self.kind == "pooled" else self.squeeze(h).flatten(1))


class UNet(nn.Module):
    """Images (N, C, H, W) and t (N,) to a map (N, width, H, W)."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        embedding, channels, height = 4 * width, width, shape[1]
        self.width = width
        self.embed = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.first = nn.Conv2d(shape[0], width, 3, padding=1)
        self.down, self.middle, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        kept = [width]

        def block(into: int, out: int) -> Block:
            return Block(into, out, embedding, dropout, attends=height in attention)

        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.down.append(block(channels, channels := multiplier * width))
                kept.append(channels)
            if level + 1 < len(multipliers):
                self.down.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                kept.append(channels)
                height //= 2
        self.middle.append(Block(channels, channels, embedding, dropout, attends=True))
        self.middle.append(Block(channels, channels, embedding, dropout, attends=False))
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(block(channels + kept.pop(), channels := multiplier * width))
            if level > 0:
                self.up.append(Upsample(channels))
                height *= 2

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (N, C, H, W), t (N,) → (N, width, H, W)"""
        at = self.embed(sinusoids(t, self.width))
        h = self.first(x)
        kept = [h]
        for layer in self.down:
            h = layer(h, at) if isinstance(layer, Block) else layer(h)
            kept.append(h)
        for layer in self.middle:
            h = layer(h, at)
        for layer in self.up:
            h = layer(torch.cat([h, kept.pop()], 1), at) if isinstance(layer, Block) else layer(h)
        return h


class DiffusersUNet(nn.Module):
    """The same map from UNet2DModel of the library diffusers."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        try:
            from diffusers import UNet2DModel
            from diffusers.models.attention_processor import Attention as TheirAttention
            from diffusers.models.attention_processor import AttnProcessor
        except ImportError as error:
            raise ImportError(
                "backbone=diffusers needs the library; run `pip install diffusers`"
            ) from error
        attends = [shape[1] >> level in attention for level in range(len(multipliers))]
        kinds = ["Attn" if here else "" for here in attends]
        self.body = UNet2DModel(
            sample_size=shape[1:],
            in_channels=shape[0],
            out_channels=width,
            layers_per_block=blocks,
            block_out_channels=[multiplier * width for multiplier in multipliers],
            down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
            up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
            norm_num_groups=normalised(width).num_groups,
            dropout=dropout,
        )
        for module in self.body.modules():
            if isinstance(module, TheirAttention):
                module.set_processor(AttnProcessor())  # plain products, see Attention

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (N, C, H, W), t (N,) → (N, width, H, W)"""
        return self.body(x, 1000 * t).sample


class Block(nn.Module):
    """A residual block with t added between its two convolutions; then attention where it is."""

    def __init__(
        self, channels: int, out: int, embedding: int, dropout: float, *, attends: bool
    ) -> None:
        super().__init__()
        self.before, self.after = normalised(channels), normalised(out)
        self.first = nn.Conv2d(channels, out, 3, padding=1)
        self.shift = nn.Linear(embedding, out)
        self.drop = nn.Dropout(dropout)
        self.second = nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        self.attention = Attention(out) if attends else nn.Identity()

    def forward(self, h: Tensor, at: Tensor) -> Tensor:
        """h (N, channels, H, W), at (N, embedding) → (N, out, H, W)"""
        silu = nn.functional.silu
        inner = self.first(silu(self.before(h))) + self.shift(at)[..., None, None]
        inner = self.second(self.drop(silu(self.after(inner))))
        return self.attention(self.skip(h) + inner)


class Attention(nn.Module):
    """Every place looks at every other, one head; in plain products, as fused ones have no second
    derivative."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = normalised(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        """(N, channels, H, W) → the same"""
        q, k, v = self.qkv(self.norm(h)).flatten(2).chunk(3, 1)
        weights = (q.transpose(1, 2) @ k / math.sqrt(h.shape[1])).softmax(-1)
        return h + self.out((v @ weights.transpose(1, 2)).view(h.shape))


class Upsample(nn.Module):
    """Each pixel becomes 2 × 2, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """(N, channels, H, W) → (N, channels, 2 H, 2 W)"""
        return self.convolution(nn.functional.interpolate(h, scale_factor=2.0, mode="nearest"))


def normalised(channels: int) -> nn.GroupNorm:
    """Group normalisation: 32 groups as in DDPM, or as many as leave at least 4 channels each."""
    groups = min(32, channels // 4)
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)


def sinusoids(t: Tensor, count: int) -> Tensor:
    """(N, count): sin and cos of 1000 t at count/2 frequencies from 1 to 10⁻⁴; t in [0, 1] (N,)

    1000 t because the steps of DDPM, whose embedding this is, are numbered up to 1000.
    """
    places = torch.arange(count // 2, device=t.device, dtype=t.dtype) / max(count // 2 - 1, 1)
    angle = 1000 * t[:, None] * torch.exp(-math.log(1e4) * places)
    return torch.cat([angle.sin(), angle.cos()], 1)
