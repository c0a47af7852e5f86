"""The noise-conditional kernel: its base at each level, its weights, and gradients pulled back."""

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.networks.features import ConvFeatures, IdentityFeatures, MLPFeatures, Width
from dmmd_kernels.networks.unet import UNetFeatures
from dmmd_kernels.systems.dmmd.deep_kernel import DeepKernel, make_kernel, pulled_back
from tests.runs import IMAGES, TINY

T, B = 3, 5


def deep_kernel(base, features="mlp"):
    torch.manual_seed(0)
    network = MLPFeatures(2, 4, hidden=8) if features == "mlp" else IdentityFeatures()
    deep = DeepKernel(network, base, None if base == "linear" else Width(8, start=1.0))
    for parameter in deep.parameters():  # a width that begins at zero slope hides its gradient
        torch.nn.init.normal_(parameter, std=0.4)
    return deep.double()


def batch():
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)
    return 2 * draw(T, B, 2), draw(T, B, 2), draw(T)


@pytest.mark.parametrize("base", DeepKernel.BASES)
def test_a_deep_kernel_has_one_base_kernel_per_level(base):
    width = None if base == "linear" else Width(8)
    kernel = DeepKernel(IdentityFeatures(), base, width).kernel(torch.rand(3))
    assert {tuple(p.shape) for p in kernel.parameters} <= {(3,)}
    assert base.split("_")[0] in str(kernel)


def test_a_deep_kernel_says_what_it_needs():
    with pytest.raises(ValueError, match="base must be one of"):
        DeepKernel(IdentityFeatures(), "cosine", Width())
    for base, width in (("linear", Width()), ("gaussian", None)):
        with pytest.raises(ValueError, match="must come with a width unless linear"):
            DeepKernel(IdentityFeatures(), base, width)


def test_only_the_identity_is_on_points():
    assert deep_kernel("gaussian", "identity").on_points
    assert not deep_kernel("gaussian").on_points


def test_weights_follow_from_the_seed_alone():
    settings, shape = TINY.changed(features="mlp").system, torch.Size([2])
    weights = []
    for noise, seed in ((0, 3), (1, 3), (1, 4)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        deep = make_kernel(settings, shape, seed)
        assert torch.equal(torch.get_rng_state(), before), "nothing else is drawn differently"
        weights.append(torch.cat([p.flatten() for p in deep.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


NETWORKS = {
    "identity": (IdentityFeatures, (2,)),
    "mlp": (MLPFeatures, (2,)),
    "conv": (ConvFeatures, (1, 8, 8)),
    "unet": (UNetFeatures, (1, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_settings_name_their_network(name):
    kind, shape = NETWORKS[name]
    deep = make_kernel(IMAGES.changed(features=name).system, torch.Size(shape), 0)
    assert isinstance(deep.features, kind)
    assert (deep.base, deep.width, deep.autocast) == ("linear", None, False)


@pytest.mark.parametrize("name", ["conv", "unet"])
def test_networks_for_images_refuse_points(name):
    with pytest.raises(ValueError, match=rf"features={name} needs images .* got \(2,\)"):
        make_kernel(IMAGES.changed(features=name).system, torch.Size([2]), 0)


def witness_gradient(a_t, a_0, kernel):
    return lambda a: dk.witness_grad(a, a_t, a_0, kernel, backend="reference")


@pytest.mark.parametrize("features", ["identity", "mlp"])
@pytest.mark.parametrize("base", DeepKernel.BASES)
def test_a_gradient_is_pulled_back_to_that_of_the_witness(base, features):
    """f with its cloud held, differentiated by autograd through witness and network at once."""
    deep, (x_t, x_0, t) = deep_kernel(base, features), batch()
    a_t, a_0, kernel = deep(x_t, t).detach(), deep(x_0, t).detach(), deep.kernel(t)
    z = x_t.clone().requires_grad_()
    f = dk.witness(deep(z, t), a_t, a_0, kernel, backend="reference")
    (want,) = torch.autograd.grad(f.sum(), z)
    got = pulled_back(deep, x_t, t, witness_gradient(a_t, a_0, kernel))
    torch.testing.assert_close(got, want)
    assert got.shape == x_t.shape
    assert not got.requires_grad


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 9])
def test_rows_split_the_network_and_not_the_pairs(rows):
    """The gradient is asked once, of all features, though the network sees few points at a time."""
    deep, (x, _, t) = deep_kernel("gaussian"), batch()
    seen, asked = [], []
    forward = deep.features.forward
    deep.features.forward = lambda x, t: (seen.append(x.shape[1]), forward(x, t))[1]

    def gradient(a):
        asked.append(a.shape)
        return dk.witness_grad(a, a, a[:, :2] / 2, deep.kernel(t), backend="reference")

    whole = pulled_back(deep, x, t, gradient)
    seen.clear()
    asked.clear()
    torch.testing.assert_close(pulled_back(deep, x, t, gradient, rows=rows), whole)
    assert asked == [(T, B, 4)]
    assert max(seen) == min(rows, B)


@pytest.mark.parametrize("base", ["gaussian", "linear"])
def test_a_pulled_back_gradient_can_be_differentiated(base):
    """In the weights, through the Jacobian and through g, against autograd of the witness."""
    deep, (x_t, x_0, t) = deep_kernel(base), batch()
    a_t, a_0, kernel = deep(x_t, t), deep(x_0, t), deep.kernel(t)
    got = pulled_back(deep, x_t, t, witness_gradient(a_t, a_0, kernel), create_graph=True)
    z = x_t.clone().requires_grad_()
    f = dk.witness(deep(z, t), a_t, a_0, kernel, backend="reference")
    (want,) = torch.autograd.grad(f.sum(), z, create_graph=True)
    weights = list(deep.parameters())
    pairs = [
        torch.autograd.grad(slope.square().sum(), weights, retain_graph=True)
        for slope in (got, want)
    ]
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other)


def test_features_that_are_given_are_not_changed_by_the_graph():
    deep, (x, _, t) = deep_kernel("gaussian"), batch()
    x.requires_grad_()
    pulled_back(deep, x, t, lambda a: a)
    assert x.grad is None
    assert all(p.grad is None for p in deep.parameters())
