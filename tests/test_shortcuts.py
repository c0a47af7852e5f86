"""A small call like an earlier one takes a shorter way, and nothing else changes."""

import copy

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.backends import choice
from tests.cases import KERNELS

NATIVE = choice.report(torch.device("cpu"))["native"] is None

each_kernel = pytest.mark.parametrize("name", ["gaussian", "linear", "polynomial", "gaussians"])


def kernel_of(name):
    """A new one, that has met no call."""
    return copy.deepcopy(KERNELS[name])


def samples(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, *shape, generator=generator, dtype=dtype)
    return x.requires_grad_(), (0.8 * y + 0.3).requires_grad_()


def all_of(kernel, x, y, **how):
    value = dk.mmd2(x, y, kernel, **how)
    return value, *torch.autograd.grad(value.sum(), (x, y))


@each_kernel
@pytest.mark.parametrize("shape", [(9, 3), (1, 9, 3), (4, 9, 3), (0, 9, 3), (9, 0)])
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_later_calls_equal_the_first_and_the_call_with_weights(name, shape, estimator):
    kernel, (x, y) = kernel_of(name), samples(*shape)
    first = all_of(kernel, x, y, estimator=estimator)
    assert len(kernel.prepared) == NATIVE
    again = all_of(kernel, x, y, estimator=estimator)
    assert all(map(torch.equal, again, first))
    weights = dict(weights_x=x.new_full((9,), 1 / 9), weights_y=y.new_full((9,), 1 / 9))
    torch.testing.assert_close(again, all_of(kernel, x, y, estimator=estimator, **weights))


SWEEPS = {
    "kernel_matrix": lambda x, y, *how: dk.kernel_matrix(x, y, *how),
    "potential": lambda x, y, *how: dk.potential(x, y, y.sum(-1).detach(), *how),
    "potential of columns": lambda x, y, *how: dk.potential(x, y, y.detach(), *how),
    "potential_grad": lambda x, y, *how: dk.potential_grad(x, y, y.sum(-1).detach(), *how),
    "potential_and_grad": lambda x, y, *how: dk.potential_and_grad(x, y, y.sum(-1), *how)[1],
    "witness": lambda x, y, *how: dk.witness(x, y, y + 1, *how),
    "witness_grad": lambda x, y, *how: dk.witness_grad(x, y, y + 1, *how),
}
each_sweep = pytest.mark.parametrize("sweep", SWEEPS.values(), ids=SWEEPS.keys())


@each_sweep
def test_later_sweeps_equal_the_first_with_their_gradients(sweep):
    kernel, (x, y) = kernel_of("gaussian"), samples(9, 3)

    def all_results():
        result = sweep(x, y, kernel)
        return result, *torch.autograd.grad(result.square().sum(), (x, y))

    first = all_results()
    assert len(kernel.prepared) == NATIVE
    assert all(map(torch.equal, all_results(), first))
    with torch.no_grad():
        assert torch.equal(sweep(x, y, kernel), first[0])


@each_sweep
def test_what_serves_no_later_call_is_not_kept(sweep):
    x, y = samples(9, 3)
    both = kernel_of("gaussian") + dk.polynomial(2)
    for kernel in (kernel_of("linear"), both, dk.gaussian(x.new_ones(()))):
        sweep(x, y, kernel)
        assert not kernel.prepared
    kernel = kernel_of("gaussian")
    for cloud in (x[:, ::2], x[None], x.half(), x.expand(200, 9, 3).flatten(0, 1)):
        sweep(cloud, cloud, kernel) if cloud.ndim == 2 else dk.witness(cloud, cloud, cloud, kernel)
    assert not kernel.prepared


@each_kernel
@pytest.mark.parametrize("shape", [(4, 2), (2, 4, 2)])
def test_first_and_second_derivatives(name, shape):
    kernel, (x, y) = kernel_of(name), samples(*shape)
    call = lambda x, y: dk.mmd2(x, y, kernel)
    assert torch.autograd.gradcheck(call, (x, y))
    assert torch.autograd.gradgradcheck(call, (x, y))
    assert torch.autograd.gradgradcheck(call, (x, y.detach()))


@pytest.mark.parametrize("first", [torch.no_grad, torch.inference_mode])
@each_kernel
def test_what_a_call_without_gradients_kept_serves_one_with_them(name, first):
    kernel, (x, y) = kernel_of(name), samples(9, 3)
    with first():
        expected = dk.mmd2(x, y, kernel)
    value, *grads = all_of(kernel, x, y)
    torch.testing.assert_close(value, expected)
    assert all(map(torch.equal, grads, all_of(kernel_of(name), x, y)[1:]))


@each_kernel
def test_transforms_do_not_take_it(name):
    kernel, (x, y) = kernel_of(name), samples(5, 9, 3)
    x, y = x.detach(), y.detach()
    call = lambda x, y: dk.mmd2(x, y, kernel)
    expected = torch.stack([call(x[i], y[i]) for i in range(5)])
    torch.testing.assert_close(torch.func.vmap(call)(x, y), expected)
    _, tangent = torch.func.jvp(call, (x[0], y[0]), (x[1], y[1]))
    gradients = torch.func.grad(call, (0, 1))(x[0], y[0])
    along = (gradients[0] * x[1]).sum() + (gradients[1] * y[1]).sum()
    torch.testing.assert_close(tangent, along)


def test_inputs_are_still_checked():
    kernel, (x, y) = dk.gaussian(1.0), samples(9, 3)
    dk.mmd2(x, y, kernel)
    with pytest.raises(ValueError, match="points of one dimension"):
        dk.mmd2(x, y[:, :2], kernel)
    with pytest.raises(TypeError, match="y must be floating point, got"):
        dk.mmd2(x, y.long(), kernel)
    with pytest.raises(ValueError, match="estimator must be"):
        dk.mmd2(x, y, kernel, estimator="exact")
    with pytest.raises(ValueError, match="backend must be"):
        dk.mmd2(x, y, kernel, backend="fastest")
    with pytest.raises(ValueError, match="backend must be"):
        dk.mmd2(x, y, kernel, backend=["native"])
    dk.witness(x, x, y, kernel)
    with pytest.raises(ValueError, match="at least one point"):
        dk.witness(x, x[:0], y, kernel)


def test_the_backend_is_that_of_the_joint_sample(monkeypatch):
    table = {"radial": {"quadratic_form": [[1, 36, 36]]}, "polynomial": {}}
    monkeypatch.setattr(choice, "_crossover", choice.Crossover.read(table))
    kernel = kernel_of("gaussian")
    for n in (2, 3, 4):
        dk.mmd2(*samples(n, 3), kernel)
    sizes = [like[-3][0] for like in kernel.prepared]  # what plain torch does takes the long way
    assert sizes == ([2, 4] if NATIVE else [])


def test_learned_widths_and_halves_find_their_own_way():
    x, y = samples(9, 3, dtype=torch.float32)
    learned = dk.gaussian(torch.tensor(1.0, requires_grad=True))
    assert dk.mmd2(x, y, learned).requires_grad
    kernel = kernel_of("gaussian")
    dk.mmd2(x.half(), y.half(), kernel)
    assert not learned.prepared
    assert not kernel.prepared


SHAPES_OF_FLOWS = [
    ((9, 2), (12, 2), None),
    ((9, 2), (12, 2), (12,)),
    ((4, 9, 2), (12, 2), (1, 12)),
    ((4, 9, 12), (4, 7, 12), (4, 7)),
    ((2, 3, 9, 2), (2, 3, 7, 2), (2, 3, 7)),
    ((2, 3, 9, 2), (1, 1, 7, 2), None),
    ((1, 9, 2), (1, 7, 2), (7,)),
]
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@pytest.mark.parametrize("name", ["gaussian", "everything", "polynomial"])
@pytest.mark.parametrize(("particles", "data", "weights"), SHAPES_OF_FLOWS)
@each_dtype
def test_a_later_flow_is_the_first_bit_for_bit(name, particles, data, weights, dtype):
    x, y = torch.randn(*particles, dtype=dtype), torch.randn(*data, dtype=dtype) + 1
    w = None if weights is None else torch.rand(weights, dtype=dtype)
    how = {"noise": 0.2, "seed": 7, "momentum": 0.5, "max_norm": 0.2, "first_flow": 5}
    kernel = kernel_of(name)
    dk.flow(x - 1, y + 1, kernel, weights=w, step_size=0.01, steps=1)
    kept = set(kernel.prepared)
    assert ("flow" in {like[0] for like in kept}) == NATIVE
    for changes in (how | {"first_step": 2}, {"max_norm": 1e-3}, {}):
        call = lambda kernel, how=changes: dk.flow(
            x, y, kernel, weights=w, step_size=0.01, steps=3, **how
        )
        assert torch.equal(call(kernel).particles, call(kernel_of(name)).particles)
    assert set(kernel.prepared) == kept


def test_later_flows_are_still_checked():
    kernel, (x, y) = kernel_of("gaussian"), [t.detach() for t in samples(9, 3)]
    run = lambda x=x, y=y, **how: dk.flow(x, y, kernel, **({"step_size": 0.1, "steps": 2} | how))
    run()
    refused = [
        (ValueError, "must not require grad", {"x": x.clone().requires_grad_()}),
        (ValueError, "steps must be at least 1", {"steps": 0}),
        (ValueError, "momentum must be at least 0", {"momentum": 1}),
        (TypeError, "seed must be an integer", {"seed": 1.5}),
        (ValueError, "points of one dimension", {"y": y[:, :2]}),
        (ValueError, "backend must be", {"backend": ["native"]}),
        (ValueError, "one weight per point", {"weights": y.new_ones(4)}),
        (dk.FlowError, "not finite after step 1", {"step_size": float("inf")}),
        (dk.FlowError, "not finite after step 4", {"x": x / 0, "first_step": 3}),
    ]
    for error, message, changed in refused:
        with pytest.raises(error, match=message):
            run(**changed)
    with pytest.raises(TypeError, match="cannot run inside"):
        torch.func.vmap(run)(x[None])


def test_a_later_flow_that_fails_names_the_flow_and_keeps_the_last_finite_state():
    kernel, (x, y) = kernel_of("gaussian"), [t.detach() for t in samples(2, 9, 3)]
    dk.flow(x, y, kernel, step_size=0.1, steps=1)
    x[1, 4, 2] = torch.inf
    with pytest.raises(dk.FlowError, match=r"flow \(1,\) are not finite after step 1") as caught:
        dk.flow(x, y, kernel, step_size=0.1, steps=3)
    first = dk.flow(x[0], y[0], kernel, step_size=0.1, steps=3).particles
    assert torch.equal(caught.value.result.particles, torch.stack([first, x[1]]))


def test_flows_that_need_more_than_numbers_and_points_are_not_kept():
    x, y = (t.detach().float() for t in samples(9, 3))
    kernel, learned = kernel_of("gaussian"), dk.gaussian(torch.tensor(1.0))
    run = lambda x=x, y=y, kernel=kernel, **how: dk.flow(x, y, kernel, steps=4, seed=1, **how)
    run(step_size=[0.1, 0.2, 0.1, 0.1])
    run(step_size=0.1, noise=torch.linspace(1, 0, 4))
    run(step_size=0.1, record_every=2)
    run(step_size=0.1, callback=lambda *_: None)
    run(step_size=0.1, backend="reference")
    run(step_size=0.1, kernel=learned)
    run(step_size=0.1, kernel=kernel_of("linear"))
    for cloud in (x.half(), x[:, ::2], x.expand(1000, 9, 3).flatten(0, 1)):
        run(cloud, cloud, step_size=0.1)
    run(x, torch.stack([y, y]), step_size=0.1)
    assert not [like for like in kernel.prepared if like[0] == "flow"]
    assert not learned.prepared


def test_a_flow_kept_in_inference_mode_serves_outside_of_it():
    kernel, (x, y) = kernel_of("gaussian"), [t.detach() for t in samples(9, 3)]
    call = lambda: dk.flow(x, y, kernel, step_size=0.17, steps=2, noise=0.3, seed=1).particles
    with torch.inference_mode():
        expected = call(), call()
    assert all(torch.equal(call(), one) for one in expected)


def test_a_kernel_keeps_what_serves_few_kinds_of_small_call_and_copies_keep_none():
    kernel = dk.gaussian(1.0) + dk.imq(1.0)
    for n in range(2, 100):
        dk.mmd2(torch.zeros(n, 1), torch.ones(3, 1), kernel)
        assert 1 <= len(kernel.prepared) <= 64
    kept = dict(kernel.prepared)
    dk.mmd2(torch.zeros(2000, 1), torch.ones(3, 1), kernel)
    assert kernel.prepared == kept
    twin = copy.deepcopy(kernel)
    assert twin == kernel
    assert not twin.prepared


def test_constructors_make_a_kernel_of_numbers_once():
    assert dk.gaussian(0.5) is dk.gaussian(0.5) is not dk.gaussian(0.25)
    assert str(dk.polynomial(2)) == str(dk.polynomial(degree=2))
    width = torch.tensor(0.5)
    assert dk.gaussian(width) is not dk.gaussian(width)
    with pytest.raises(ValueError, match="sigma must be a positive finite number"):
        dk.gaussian(-1.0)
