"""Losses and kernels as modules: what they compute, what they hold, and that they learn."""

import copy

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

import dmmd_kernels as dk
from tests.cases import each_kernel, problem


@each_kernel
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_the_loss_is_mmd2(kernel, estimator):
    x, y, _, _ = problem(8, 9, 3)
    got = dk.MMDLoss(kernel, estimator=estimator)(x, y)
    assert torch.equal(got, dk.mmd2(x, y, kernel, estimator=estimator))


def test_the_energy_loss_is_the_energy_distance():
    x, y, _, _ = problem(8, 9, 3)
    d = torch.cdist
    want = 2 * d(x, y).mean() - d(x, x).mean() - d(y, y).mean()
    torch.testing.assert_close(dk.EnergyLoss()(x, y), want, rtol=1e-5, atol=1e-6)
    assert torch.equal(dk.EnergyLoss(1.5)(x, y), dk.MMDLoss(dk.energy(1.5))(x, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_biased_loss_is_never_negative_and_keeps_its_gradient(dtype):
    """A sample against its own rows in another order: 0, which rounding misses on both sides."""
    clamped = 0
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(32, 16, generator=g).to(dtype).requires_grad_()
        y = x.detach()[torch.randperm(32, generator=g)]
        for kernel in (dk.gaussian(2.0), dk.energy(), dk.linear()):
            plain, loss = dk.mmd2(x, y, kernel, estimator="biased"), dk.MMDLoss(kernel)(x, y)
            clamped += plain.item() < 0
            assert loss == plain.clamp(min=0)
            grads = [torch.autograd.grad(value, x)[0] for value in (plain, loss)]
            assert torch.equal(*grads)
    assert clamped > 0


def test_the_root_is_mmd_with_its_gradient():
    x, y, _, _ = problem(8, 9, 3, dtype=torch.float64)
    loss = dk.MMDLoss(dk.gaussian(1.0), root=True)
    want = dk.mmd2(x, y, dk.gaussian(1.0), estimator="biased").sqrt()
    torch.testing.assert_close(loss(x, y), want)
    assert torch.autograd.gradcheck(lambda x: loss(x, y), x.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda x: loss(x, y), x)
    assert "root=True" in repr(loss)
    batch = dk.EnergyLoss(root=True, reduction="none")(x.expand(2, 8, 3), y)
    assert torch.equal(batch, dk.EnergyLoss(reduction="none")(x.expand(2, 8, 3), y).sqrt())


def test_the_root_of_0_has_the_gradient_0():
    for kernel in (dk.gaussian(2.0), dk.energy(), dk.laplace(1.0)):
        x = torch.ones(6, 2, requires_grad=True)
        value = dk.MMDLoss(kernel, root=True)(x, x.detach())
        (grad,) = torch.autograd.grad(value, x, create_graph=True)
        assert value == 0
        assert torch.equal(grad, torch.zeros(6, 2))
    for seed in range(20):
        x = torch.randn(32, 16, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        dk.MMDLoss(dk.gaussian(2.0), root=True)(x, x.detach().flip(0)).backward()
        assert x.grad.isfinite().all()


def test_batches_are_reduced_as_asked():
    x, y = torch.randn(4, 5, 2), torch.randn(4, 6, 2)
    values = dk.MMDLoss(dk.gaussian(1.0), reduction="none")(x, y)
    assert values.shape == (4,)
    torch.testing.assert_close(dk.MMDLoss(dk.gaussian(1.0))(x, y), values.mean())
    torch.testing.assert_close(dk.MMDLoss(dk.gaussian(1.0), reduction="sum")(x, y), values.sum())


def test_weights_are_handed_on():
    x, y, _, _ = problem(8, 9, 3)
    a = torch.rand(8)
    got = dk.MMDLoss(dk.gaussian(1.0))(x, y, weights_x=a)
    assert torch.equal(got, dk.mmd2(x, y, dk.gaussian(1.0), estimator="biased", weights_x=a))


def test_a_rule_may_read_the_width_off_the_batch():
    x, y, _, _ = problem(8, 9, 3)
    loss = dk.MMDLoss(lambda x, y: dk.gaussian(dk.median_sigma(x, y)))
    want = dk.mmd2(x, y, dk.gaussian(dk.median_sigma(x, y)), estimator="biased")
    assert torch.equal(loss(x, y), want)


def test_a_deep_kernel_trains_its_features():
    x, y, _, _ = problem(8, 9, 3)
    loss = dk.MMDLoss(dk.gaussian(1.0), features=nn.Linear(3, 2))
    value = loss(x, y)
    inner = loss.features(x), loss.features(y)
    assert torch.equal(value, dk.mmd2(*inner, dk.gaussian(1.0), estimator="biased"))
    value.backward()
    assert loss.features.weight.grad.abs().max() > 0
    assert {name for name, _ in loss.named_parameters()} == {"features.weight", "features.bias"}


MIXED = 0.5 * dk.gaussian(1.3) + dk.rational_quadratic(0.4, 0.9) + dk.energy() + dk.linear()


def test_a_learnable_kernel_begins_as_the_kernel_and_has_its_gradients():
    x, y, _, _ = problem(8, 9, 3, dtype=torch.float64)
    module = dk.LearnableKernel(MIXED, learn=("widths", "weights", "shapes")).double()
    torch.testing.assert_close(dk.mmd2(x, y, module()), dk.mmd2(x, y, MIXED), rtol=1e-6, atol=1e-9)
    names = ("log_scale", "log_weight", "log_shape")
    assert [name for name, _ in module.named_parameters()] == list(names)

    def value(scale, weight, shape):
        replaced = dict(zip(names, (scale, weight, shape), strict=True))
        return dk.mmd2(x, y, torch.func.functional_call(module, replaced, ()))

    start = [p.detach().clone().requires_grad_() for p in module.parameters()]
    assert torch.autograd.gradcheck(value, start)


def test_only_what_is_named_is_learned():
    module = dk.LearnableKernel(MIXED)
    assert [name for name, _ in module.named_parameters()] == ["log_scale"]
    assert module.log_scale.shape == (2,)
    assert len(module().terms) == 4
    assert module().terms[2:] == MIXED.terms[2:]


def test_a_shape_is_learned_where_there_is_one():
    x, y, _, _ = problem(8, 9, 3)
    mixed = dk.gaussian(1.3) + dk.rational_quadratic(0.4, 0.9) + dk.laplace(1.0)
    module = dk.LearnableKernel(mixed, learn=("shapes",))
    assert module.log_shape.shape == (1,)
    dk.mmd2(x, y, module()).backward()
    assert (module.log_shape.grad != 0).all()


def test_state_is_kept_and_moved():
    loss = dk.MMDLoss(dk.LearnableKernel(dk.gaussian(2.0)), features=nn.Linear(3, 2))
    with torch.no_grad():
        loss.kernel.log_scale += 1
    kept = save(loss.state_dict())
    other = dk.MMDLoss(dk.LearnableKernel(dk.gaussian(1.0)), features=nn.Linear(3, 2))
    other.load_state_dict(load(kept))
    x, y, _, _ = problem(8, 9, 3)
    assert torch.equal(loss(x, y), other(x, y))
    assert loss.double()(x.double(), y.double()).dtype == torch.float64
    assert loss.to("meta").kernel.log_scale.is_meta


def test_training_the_width_raises_the_power():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 2, generator=g), 1.4 * torch.randn(200, 2, generator=g)
    module = dk.LearnableKernel(dk.gaussian(8.0))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.2)
    values = []
    for _ in range(60):
        criterion = dk.power_criterion(x, y, module())
        optimizer.zero_grad()
        (-criterion).backward()
        optimizer.step()
        values.append(criterion.item())
    assert values[-1] > 2 * values[0]
    assert 0.3 < (0.5 / module.log_scale.exp()).sqrt().item() < 5


def test_modules_say_what_they_are():
    text = repr(dk.MMDLoss(0.5 * dk.gaussian(2.0), features=nn.Identity()))
    assert "0.5 * gaussian(2.0), estimator='biased', reduction='mean'" in text
    assert "(features): Identity()" in text
    assert "gaussian(2.0), learn=('widths',)" in repr(dk.LearnableKernel(dk.gaussian(2.0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dk.MMDLoss(dk.gaussian(1.0), reduction="max"), "reduction must be 'mean', 'sum'"),
        (lambda: dk.EnergyLoss(estimator="u"), "EnergyLoss: estimator must be 'biased' or"),
        (
            lambda: dk.MMDLoss(dk.energy(), estimator="unbiased", root=True),
            "'biased' for root=True",
        ),
        (lambda: dk.LearnableKernel(dk.gaussian(1.0), learn=("sigma",)), "learn must name"),
        (lambda: dk.LearnableKernel(dk.energy()), "a gaussian, .* got energy"),
        (lambda: dk.LearnableKernel(dk.gaussian(1.0), ("shapes",)), "have a rational_quadratic"),
        (lambda: dk.LearnableKernel(dk.gaussian(torch.ones(()))), "must have numbers"),
    ],
)
def test_errors_say_what_must_hold(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def learned_loss():
    """One whose kernel holds a parameter twice, and another once."""
    sigma, alpha = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor(0.7))
    return dk.MMDLoss(dk.gaussian(sigma) + alpha * dk.rational_quadratic(alpha, sigma))


def of_values(sigma, alpha):
    return dk.gaussian(sigma) + alpha * dk.rational_quadratic(alpha, sigma)


def test_parameters_inside_a_kernel_are_those_of_the_loss():
    x, y, _, _ = problem(8, 9, 3)
    loss = learned_loss()
    assert {name: p.item() for name, p in loss.named_parameters()} == pytest.approx(
        {"kernel_0": 1.5, "kernel_1": 0.7}
    )
    optimizer = torch.optim.SGD(loss.parameters(), 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()
    sigma, alpha = (p.item() for p in loss.parameters())
    assert sigma != 1.5
    expected = dk.mmd2(x, y, of_values(sigma, alpha), estimator="biased")
    torch.testing.assert_close(loss(x, y), expected)


def test_parameters_of_a_kernel_are_saved_copied_moved_and_replaced():
    x, y, _, _ = problem(8, 9, 3)
    loss = learned_loss()
    value = lambda *p: dk.mmd2(x, y, of_values(*p), estimator="biased")
    other = copy.deepcopy(loss)
    other.load_state_dict({name: 2 * t for name, t in loss.state_dict().items()})
    torch.testing.assert_close(other(x, y), value(3.0, 1.4))
    torch.testing.assert_close(loss(x, y), value(1.5, 0.7))
    assigned = {name: 3 * t for name, t in loss.state_dict().items()}
    other.load_state_dict(assigned, assign=True)
    torch.testing.assert_close(other(x, y), value(4.5, 2.1))
    swapped = {"kernel_0": torch.tensor(2.0), "kernel_1": torch.tensor(3.0)}
    got = torch.func.functional_call(loss, swapped, (x, y))
    torch.testing.assert_close(got, value(2.0, 3.0))
    assert loss.double()(x.double(), y.double()).dtype == torch.float64


def test_images_and_widths_per_dimension_are_refused_with_a_remedy():
    images, x = torch.randn(4, 3, 8, 8), torch.randn(6, 3)
    with pytest.raises(ValueError, match=r"MMDLoss: x .* images, \(4, 3, 8, 8\); pass x\.flatten"):
        dk.MMDLoss(dk.gaussian(1.0))(images, images)
    rows = dk.MMDLoss(dk.gaussian(8.0), features=nn.Flatten())(images, images + 1)
    assert rows == dk.mmd2(images.flatten(1), (images + 1).flatten(1), dk.gaussian(8.0), **BIASED)
    batch = dk.MMDLoss(dk.gaussian(1.0))(images[None], images[None] + 1)
    assert batch == dk.mmd2(images[None], images[None] + 1, dk.gaussian(1.0), **BIASED).mean()
    with pytest.raises(ValueError, match="divide the points by their widths"):
        dk.MMDLoss(dk.gaussian(torch.ones(3)))(x, x + 1)


BIASED = {"estimator": "biased"}


@pytest.mark.parametrize("kernel", [None, 1.0, "rbf", [dk.gaussian(1.0)]], ids=repr)
def test_a_loss_needs_a_kernel_or_a_rule(kernel):
    with pytest.raises(TypeError, match="MMDLoss: kernel must be a Kernel, got"):
        dk.MMDLoss(kernel)
    with pytest.raises(TypeError, match="mmd2: kernel must be a Kernel, got"):
        dk.MMDLoss(lambda x, y: kernel)(torch.randn(4, 2), torch.randn(4, 2))
