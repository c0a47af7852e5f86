"""flow_update: one step along gradients that come from elsewhere, in place."""

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.backends import choice, native_flow
from dmmd_kernels.backends.philox import normals
from tests.cases import problem

MASK = 0xFFFFFFFF
needs_native = pytest.mark.skipif(
    choice.report(torch.device("cpu"))["native"] is not None,
    reason=f"native: {choice.report(torch.device('cpu'))['native']}",
)


def particles_and_data(n=20, m=25, d=2, dtype=torch.float64):
    x, y, _, _ = problem(n, m, d, dtype=dtype)
    return x + 1.5, y


@pytest.mark.parametrize("name", ["auto", "reference"])
def test_flow_update_moves_in_place_as_it_says(name):
    z, g, v = (torch.randn(2, 3, 40, 5, dtype=torch.float64) for _ in range(3))
    size, spread = torch.rand(2, 3), torch.rand(2, 3)
    clipped = g * (0.7 / g.norm(dim=-1, keepdim=True)).clamp(max=1)
    turned = 0.9 * v + clipped
    xi = normals(z.flatten(0, 1), seed=4, step=8).view_as(z)
    moved = z - size[..., None, None] * turned + spread[..., None, None] * xi
    how = {"momentum": 0.9, "max_norm": 0.7, "noise": spread[None], "seed": 4, "step": 8}
    got = dk.flow_update(z, g, step_size=size[None], velocity=v, backend=name, **how)
    assert got is z
    torch.testing.assert_close(z, moved, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(v, turned)


@pytest.mark.parametrize("name", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_flow_update_of_half_precision_is_float32_rounded_once(name, dtype):
    z, g, v = (torch.randn(3, 40, 5).to(dtype) for _ in range(3))
    how = {"step_size": 0.3, "momentum": 0.9, "max_norm": 0.7, "noise": 0.1, "seed": 4}
    wide, trail = z.float(), v.float()
    dk.flow_update(wide, g.float(), velocity=trail, backend=name, **how)
    assert dk.flow_update(z, g, velocity=v, backend=name, **how) is z
    assert torch.equal(z, wide.to(dtype))
    assert torch.equal(v, trail.to(dtype))


@needs_native
def test_the_extension_says_that_it_takes_no_half_precision():
    reason = native_flow.why_no_flow(torch.zeros(3, 2, dtype=torch.float16), None)
    assert reason == "its flow takes float32 and float64, got torch.float16"


@pytest.mark.parametrize("name", ["auto", "reference"])
def test_flow_update_takes_one_step_size_per_flow(name):
    z, g, size = torch.randn(3, 40, 2), torch.randn(3, 2, 40).mT, torch.rand(3)
    moved = z - size[:, None, None] * g
    how = {"step_size": size, "noise": torch.zeros(3), "backend": name}
    torch.testing.assert_close(dk.flow_update(z, g, **how), moved)
    moved = z[0] - 0.3 * g[0]
    torch.testing.assert_close(dk.flow_update(z[0], g[0], step_size=0.3, backend=name), moved)


def test_errors_of_flow_update_name_it():
    z = torch.zeros(3, 4, 2)
    with pytest.raises(ValueError, match=r"flow_update: step_size must be .* \(3,\), got .*\(4,\)"):
        dk.flow_update(z, z, step_size=torch.ones(4))
    with pytest.raises(ValueError, match="flow_update: noise must be one number or one per flow"):
        dk.flow_update(z, z, step_size=0.1, noise=torch.ones(2, 3))
    with pytest.raises(ValueError, match="flow_update: step must be at least 0 and less than"):
        dk.flow_update(z, z, step_size=0.1, step=2**32)
    with pytest.raises(TypeError, match=r"flow_update: seed must be an integer, got 1\.5"):
        dk.flow_update(z, z, step_size=0.1, seed=1.5)
    with pytest.raises(ValueError, match=r"backend must be 'auto', .*, got 'foo'"):
        dk.flow_update(z, z, step_size=0.1, backend="foo")


def test_flow_update_refuses_what_it_cannot_overwrite():
    z = torch.zeros(4, 5)
    with pytest.raises(ValueError, match="z must be contiguous"):
        dk.flow_update(z.mT, z.mT, step_size=0.1)
    with pytest.raises(ValueError, match=r"g must have the shape of z, \(4, 5\), got \(1, 5\)"):
        dk.flow_update(z, z[:1], step_size=0.1)
    with pytest.raises(ValueError, match="momentum needs velocity"):
        dk.flow_update(z, z, step_size=0.1, momentum=0.5)
