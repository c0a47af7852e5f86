"""U-Net features: every image for itself, two derivatives, and both backbones."""

import sys

import pytest
import torch

from dmmd_kernels.networks.unet import READOUTS, UNetFeatures, sinusoids
from dmmd_kernels.systems.dmmd.deep_kernel import DeepKernel
from dmmd_kernels.systems.dmmd.losses import noise_conditional_loss

SIZES = {"width": 4, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}
X = torch.randn(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0)).double()
T = torch.tensor([0.2, 0.7]).double()


def network(**changes):
    torch.manual_seed(0)
    return UNetFeatures((2, 8, 8), 5, **(SIZES | changes)).double()


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_an_image_has_its_features_whatever_is_beside_it(readout, channels_last):
    phi = network(readout=readout, channels_last=channels_last)
    together = phi(X, T)
    assert together.shape == (2, 3, 2 * 8 * 8 if readout == "image" else 5)
    torch.testing.assert_close(phi(X[1:, 2:], T[1:]), together[1:, 2:])
    assert not torch.allclose(phi(X, T.flip(0)), together)


def test_memory_layouts_give_the_same_features():
    torch.testing.assert_close(network()(X, T), network(channels_last=True)(X, T))


@pytest.mark.parametrize("readout", READOUTS)
def test_the_second_derivative_is_that_of_the_first(readout):
    """∂_θ of |∇_x φ|² along a direction, against central differences of it."""
    phi = network(readout=readout)
    weight = phi.body.middle[0].attention.qkv.weight
    step = torch.randn_like(weight)

    def slope():
        x = X.clone().requires_grad_()
        (g,) = torch.autograd.grad(phi(x, T).square().sum(), x, create_graph=True)
        return g.square().sum()

    (found,) = torch.autograd.grad(slope(), weight)
    ends = []
    for side in (1e-5, -2e-5):
        weight.data += side * step
        ends.append(slope().item())
    expected = (ends[0] - ends[1]) / 2e-5
    assert (found * step).sum().item() == pytest.approx(expected, rel=1e-5)


def test_dropout_acts_in_training_only():
    phi = network(dropout=0.5)
    assert not torch.equal(phi(X, T), phi(X, T))
    phi.eval()
    assert torch.equal(phi(X, T), phi(X, T))


def test_a_half_precision_network_has_features_and_gradients_in_float32():
    half = DeepKernel(network().float(), "linear", autocast=True)
    full = DeepKernel(network().float(), "linear")
    x, t, mix = X.float(), T.float(), torch.full((2, 3), 0.5)
    gradients = []
    for deep in (half, full):
        loss = noise_conditional_loss(deep, x, x.flip(1) / 2, t, gradient_weight=1.0, mix=mix)
        assert loss.total.dtype == deep(x, t).dtype == torch.float32
        loss.total.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in deep.parameters()]))
    assert 0 < (gradients[0] - gradients[1]).norm() < 0.1 * gradients[1].norm()


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"multiples of 8 for 4 resolutions, got \(2, 12, 12\)"):
        UNetFeatures((2, 12, 12), 5)
    with pytest.raises(ValueError, match="kind must be one of"):
        network(readout="mean")


def test_the_embedding_is_that_of_ddpm():
    """sin and cos of the step at wave lengths from 2π to 2π 10⁴ (Ho et al., 2020)."""
    found = sinusoids(torch.tensor([0.25]).double(), 4)[0]
    expected = torch.tensor([250.0, 0.025]).double()
    torch.testing.assert_close(found, torch.cat([expected.sin(), expected.cos()]))


def test_the_other_backbone_trains_too():
    pytest.importorskip("diffusers", reason="the library diffusers is not installed")
    deep = DeepKernel(network(backbone="diffusers"), "linear")
    mix = torch.full((2, 3), 0.5).double()
    noise_conditional_loss(deep, X, X.flip(1) / 2, T, gradient_weight=1.0, mix=mix).total.backward()
    assert all(p.grad.isfinite().all() for p in deep.parameters())


def test_a_missing_backbone_is_said_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match="pip install diffusers"):
        network(backbone="diffusers")
