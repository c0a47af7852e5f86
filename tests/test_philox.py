"""Philox: the published numbers, and the normals made of them, on every backend."""

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.backends import choice
from dmmd_kernels.backends.philox import normals, words
from tests.cases import problem

MASK = 0xFFFFFFFF
needs_native = pytest.mark.skipif(
    choice.report(torch.device("cpu"))["native"] is not None,
    reason=f"native: {choice.report(torch.device('cpu'))['native']}",
)


def particles_and_data(n=20, m=25, d=2, dtype=torch.float64):
    x, y, _, _ = problem(n, m, d, dtype=dtype)
    return x + 1.5, y


@pytest.mark.parametrize(
    ("counter", "seed", "expected"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((MASK,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(counter, seed, expected):
    assert tuple(map(int, words(tuple(map(torch.tensor, counter)), seed))) == expected


def test_normals_are_normal_and_uncorrelated():
    xi = normals(torch.zeros(4, 20_000, 6, dtype=torch.float64), seed=1, step=2)
    flat = xi.permute(0, 2, 1).reshape(24, -1)
    assert (flat.mean(-1).abs() < 5 / 20_000**0.5).all()
    assert ((flat.std(-1) - 1).abs() < 5 / 40_000**0.5).all()
    assert (torch.corrcoef(flat) - torch.eye(24)).abs().max() < 5 / 20_000**0.5


def test_a_number_depends_on_seed_flow_particle_coordinate_and_step_alone():
    whole = normals(torch.zeros(3, 7, 5), seed=9, step=4)
    assert torch.equal(
        normals(torch.zeros(1, 3, 2), seed=9, step=4, first_flow=2), whole[2:, :3, :2]
    )
    for other in ({"seed": 8, "step": 4}, {"seed": 9, "step": 5}, {"seed": 9 + 2**32, "step": 4}):
        assert not (normals(torch.zeros(3, 7, 5), **other) == whole).any()


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_extension_draws_the_same_noise(dtype):
    """Up to the last bits of log, cos and sin."""
    z = torch.zeros(3, 50, 7, dtype=dtype)
    how = {"step_size": 1.0, "noise": 1.0, "seed": 2**63 + 11, "step": 5, "first_flow": 2**31}
    ours = dk.flow_update(z.clone(), z, backend="native", **how)
    theirs = dk.flow_update(z.clone(), z, backend="reference", **how)
    assert (ours - theirs).abs().max() <= 4 * torch.finfo(dtype).eps
