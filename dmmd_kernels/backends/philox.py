"""Counter-based random numbers: Philox 4×32-10, and normal numbers from it by Box-Muller.

A number is a function of (seed, flow, particle, coordinate, step) and of nothing else, so noise is
the same on every backend and device, for any number of threads and however a run is cut in pieces.
The integers are equal bit for bit with those of csrc/philox.h. Uniforms take 24 bits of a word,
which float32 holds exactly, so normals differ by the rounding of log, cos and sin alone; they lie
within ±5.8.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import math

import torch
from torch import Tensor

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF
_ROUNDS = 10
Words = tuple[Tensor, Tensor, Tensor, Tensor]


def words(counter: Words, seed: int) -> Words:
    """Four words of 32 bits for each counter of four words, as int64; the key is the seed."""
    a, b, c, d = counter
    keys = [seed & _MASK, seed >> 32 & _MASK]
    for _ in range(_ROUNDS):
        # int64 wraps modulo 2⁶⁴, so its bits are those of the unsigned product.
        low, high = (word * by for word, by in zip((a, c), _MULTIPLIERS, strict=True))
        a, c = _upper(high) ^ b ^ keys[0], _upper(low) ^ d ^ keys[1]
        b, d = high & _MASK, low & _MASK
        keys = [key + weyl & _MASK for key, weyl in zip(keys, _WEYL, strict=True)]
    return a, b, c, d


def normals(x: Tensor, *, seed: int, step: int, first_flow: int = 0) -> Tensor:
    """Standard normal numbers for particles x (B, N, d) at a step; flows count from first_flow.

    Computed in float64 and rounded once to the dtype of x.
    """
    count = lambda size: torch.arange(size, device=x.device)
    blocks, n, d = x.shape
    quads, particles = count((d + 3) // 4), count(n)[:, None]
    flows = (first_flow + count(blocks))[:, None, None]
    w = words((quads, particles, torch.full_like(quads, step), flows), seed)
    uniform = [(word >> 8).double() for word in w]
    radii = [(-2 * ((u + 1) * 2.0**-24).log()).sqrt() for u in uniform[::2]]
    angles = [u * (2.0**-23 * math.pi) for u in uniform[1::2]]
    parts = [r * f(a) for r, a in zip(radii, angles, strict=True) for f in (torch.cos, torch.sin)]
    return torch.stack(parts, -1).flatten(-2)[..., :d].to(x.dtype)


def _upper(product: Tensor) -> Tensor:
    return product >> 32 & _MASK
