"""Dtypes: autocast changes no arithmetic, mixed ones are promoted, what no op can hold is named."""

import warnings

import pytest
import torch
from torch import nn

import dmmd_kernels as dk
from dmmd_kernels import metrics
from tests.cases import DEVICE, KERNELS, each_backend, each_kernel, problem

HALVES = [torch.float16, torch.bfloat16]
MIXED = [
    (torch.bfloat16, torch.float32, torch.float32),
    (torch.float16, torch.bfloat16, torch.float32),
    (torch.float32, torch.float64, torch.float64),
    (torch.float64, torch.float16, torch.float64),
]


def ops(z, x, w, kernel, **how):
    """Every op that sums over pairs, as a call without arguments."""
    weights = w[:, 0]
    held = dk.hold(x if x.dtype not in HALVES else x.float(), kernel, **how)
    return {
        "kernel_matrix": lambda: dk.kernel_matrix(z, x, kernel, **how),
        "potential": lambda: dk.potential(z, x, w, kernel, **how),
        "potential_grad": lambda: dk.potential_grad(z, x, weights, kernel, **how),
        "potential_and_grad": lambda: dk.potential_and_grad(z, x, weights, kernel, **how)[1],
        "mmd2": lambda: dk.mmd2(z, x, kernel, **how),
        "mmd2, weighted": lambda: dk.mmd2(z, x, kernel, weights_y=weights.abs(), **how),
        "witness": lambda: dk.witness(z, x, -z, kernel, **how),
        "witness_grad": lambda: dk.witness_grad(z, x, -z, kernel, **how),
        "held": lambda: held.mmd2(z),
        "flow": lambda: dk.flow(z, x, kernel, step_size=1e-3, steps=2, **how).particles,
        "power": lambda: dk.power_criterion(z, x, kernel, **how),
    }


DIFFERENTIABLE = [
    "kernel_matrix",
    "potential",
    "potential_grad",
    "potential_and_grad",
    "mmd2",
    "mmd2, weighted",
    "witness",
    "witness_grad",
    "power",
]


@each_backend
@each_kernel
def test_autocast_changes_no_value(name, kernel):
    if name == "triton":
        pytest.skip("triton: a minute in the interpreter, and its kernels are not torch's")
    z, x, _, w = problem(40, 30, 5, p=2)
    for op, call in ops(z, x, w, kernel, backend=name).items():
        expected = call()
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            got = call()
        assert torch.equal(got, expected), op
        assert got.dtype == torch.float32, op


@pytest.mark.parametrize("where", ["forward", "both"])
@each_kernel
def test_autocast_changes_no_gradient(kernel, where):
    """`reference` and closed forms multiply by torch, in backward passes too."""
    z, x, _, w = problem(40, 30, 5, p=2)

    def gradients(enabled):
        leaf, found = z.clone().requires_grad_(), []
        for op in DIFFERENTIABLE:
            with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=enabled):
                value = ops(leaf, x, w, kernel, backend="reference")[op]()
                if value.requires_grad:
                    with torch.autocast(DEVICE, enabled=enabled and where == "both"):
                        value.square().sum().backward()
            found.append(leaf.grad)
            leaf.grad = None
        return found

    for got, expected in zip(gradients(True), gradients(False), strict=True):
        assert (got is None) == (expected is None)  # as of the gradient of a linear potential
        if got is not None:
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_products_under_autocast_have_all_their_derivatives():
    x, y, _, _ = problem(4, 5, 3, dtype=torch.float64)
    inputs = x.requires_grad_(), y.requires_grad_()
    call = lambda x, y: dk.kernel_matrix(x, y, dk.linear() + dk.polynomial(2))
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(call, inputs)
        jacobian = torch.func.jacrev(call)(x, y)
    torch.testing.assert_close(jacobian, torch.func.jacfwd(call)(x, y))


def test_compiled_calls_are_right_under_autocast():
    x, y, _, _ = problem(40, 30, 5)
    call = lambda x, y: dk.kernel_matrix(x, y, KERNELS["linear"]).sum(1)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        got = torch.compile(call, backend="aot_eager", fullgraph=True)(x, y)
    torch.testing.assert_close(got, call(x, y))


@pytest.mark.parametrize(("one", "other", "both"), MIXED)
@pytest.mark.parametrize("name", ["gaussian", "linear", "everything"])
def test_mixed_dtypes_are_those_that_torch_promotes_them_to(name, one, other, both):
    z, x, _, w = problem(9, 8, 3, dtype=one)
    x, w = x.to(other), w.to(one)
    got = ops(z, x, w, KERNELS[name])
    expected = ops(z.to(both), x.to(both), w.to(both), KERNELS[name])
    for op in got:
        value = got[op]()
        assert value.dtype == both, op
        torch.testing.assert_close(value, expected[op](), msg=op)


def test_gradients_come_back_in_the_dtype_of_each_input():
    x, y, _, _ = problem(9, 8, 3)
    x, y = x.bfloat16().requires_grad_(), y.requires_grad_()
    dk.mmd2(x, y, dk.gaussian(1.0)).backward()
    wide = x.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(dk.mmd2(wide, y.detach(), dk.gaussian(1.0)), wide)
    assert (x.grad.dtype, y.grad.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(x.grad, expected.bfloat16())


def test_a_mixed_call_leaves_nothing_behind_for_others():
    """What is kept with a kernel goes to memory without a second look at dtypes."""
    kernel = dk.gaussian(torch.pi)
    x, y, _, w = problem(9, 8, 3)
    for _ in range(3):
        for cast in (torch.Tensor.half, torch.Tensor.double, torch.Tensor.float):
            expected = dk.mmd2(x.double(), cast(y).double(), kernel)
            assert abs(dk.mmd2(x, cast(y), kernel) - expected) < 1e-5
            f = dk.potential(x, cast(y), w[:, 0], kernel)
            exact = dk.potential(x.double(), cast(y).double(), w[:, 0].double(), kernel)
            torch.testing.assert_close(f.double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("one", [*HALVES, torch.float32, torch.float64])
@pytest.mark.parametrize("other", [*HALVES, torch.float32, torch.float64])
def test_losses_give_float32_under_autocast_as_those_of_torch(one, other):
    x, y, _, _ = problem(9, 9, 3)
    promoted = torch.promote_types(one, other)
    widest = promoted if promoted == torch.float64 else torch.float32
    for loss in (dk.MMDLoss(dk.gaussian(1.0)), dk.MMDLoss(dk.linear()), dk.EnergyLoss()):
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            got = loss(x.to(one), y.to(other))
        assert got.dtype == widest
        exact = loss(x.to(one).double(), y.to(other).double())
        torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)
        assert loss(x.to(one), y.to(other)).dtype == promoted


def test_features_of_a_network_under_autocast_meet_float32_data():
    net, prior = nn.Linear(3, 2), torch.randn(8, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = net(torch.randn(9, 3))
        value = dk.EnergyLoss()(features, prior)
        value.backward()
    assert features.dtype == torch.bfloat16
    d = torch.cdist(features.double(), prior.double()), torch.cdist(prior.double(), prior.double())
    own = torch.cdist(features.double(), features.double())
    exact = 2 * d[0].mean() - d[1].mean() - own.mean()
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    assert net.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", HALVES)
def test_linear_kernels_of_halves_are_summed_in_float32(dtype):
    """300 · 20 · 20 overflows float16, what is left of it does not."""
    x, w = torch.full((300, 4), 20.0, dtype=dtype), torch.full((300,), 20.0, dtype=dtype)
    z = torch.full((1, 4), 1e-3, dtype=dtype)
    f = dk.potential(z, x, w, dk.linear())
    exact = z.double() @ (x.double().T @ w.double())
    assert f.dtype == dtype
    assert torch.equal(f, exact.to(dtype))
    small = 1e-3 * dk.linear() + 1e-9 * dk.polynomial(2, 1.0, 0.0)
    k = dk.kernel_matrix(10 * x, 10 * x, small)[0, 0]
    product = (10 * x[0]).double().square().sum()
    assert torch.equal(k, (1e-3 * product + 1e-9 * product**2).to(dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_parts_of_a_kernel_are_added_up_before_they_are_rounded(dtype):
    """-70000 and 70001 fit in no float16, their sum does."""
    x, y = torch.full((1, 1), 300.0, dtype=dtype), torch.full((1, 1), 232.0, dtype=dtype)
    kernel = 1000.0 * dk.energy() + dk.linear()
    exact = -1000.0 * 68 + 300 * 232
    assert dk.kernel_matrix(x, y, kernel).item() == torch.tensor(exact, dtype=dtype).item()


def test_parameters_in_half_precision_are_squared_in_float32():
    sigma = torch.tensor(1e-3, dtype=torch.float16)  # its square is 0 in float16
    x = torch.tensor([[0.0], [1e-3]])
    got = dk.kernel_matrix(x, x, dk.gaussian(sigma))[0, 1]
    assert got.item() == pytest.approx(torch.exp(-0.5 * (1e-3 / sigma.double()) ** 2).item())


UNFIT = {
    "sparse": lambda t: t.to_sparse(),
    "nested": lambda t: torch.nested.nested_tensor([t, t]),
    "jagged": lambda t: torch.nested.nested_tensor([t, t], layout=torch.jagged),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "complex": lambda t: t.to(torch.complex64),
    "mkldnn": lambda t: t.to_mkldnn(),
    "integers": lambda t: t.int(),
    "a list": lambda t: t.tolist(),
}
REMEDY = r"pass \.|pass torch|pad it|torch\.Tensor, got list"


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning", "ignore:.*quantization")
@pytest.mark.parametrize("kind", UNFIT)
def test_what_no_op_can_hold_is_named(kind):
    x, y, w, k, to = (
        torch.randn(5, 3),
        torch.randn(6, 3),
        torch.ones(6),
        dk.gaussian(1.0),
        UNFIT[kind],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bad, weights = to(x), to(w) if kind != "nested" else torch.nested.nested_tensor([w, w])
    for name, call in {
        "mmd2: x": lambda: dk.mmd2(bad, y, k),
        "mmd2: weights_y": lambda: dk.mmd2(x, y, k, weights_y=weights),
        "potential: z": lambda: dk.potential(bad, y, w, k),
        "potential: w": lambda: dk.potential(x, y, weights, k),
        "kernel_matrix: y": lambda: dk.kernel_matrix(x, bad, k),
        "witness: z": lambda: dk.witness(bad, x, y, k),
        "flow: x": lambda: dk.flow(bad, y, k, step_size=1.0, steps=1),
        "flow: weights": lambda: dk.flow(x, y, k, step_size=1.0, steps=1, weights=weights),
        "hold: y": lambda: dk.hold(bad, k),
        "(MMDLoss|mmd2): x": lambda: dk.MMDLoss(k)(bad, y),
    }.items():
        with pytest.raises(TypeError, match=f"{name} must be .*({REMEDY})"):
            call()


def test_meta_tensors_have_shapes_but_do_not_flow():
    x = torch.empty(5, 3, device="meta")
    assert dk.mmd2(x, x, dk.gaussian(1.0)).is_meta
    with pytest.raises(ValueError, match="flow: x must hold numbers, got a meta tensor"):
        dk.flow(x, x, dk.gaussian(1.0), step_size=1.0, steps=1)


@each_backend
def test_a_negation_that_torch_has_put_off_is_done(name):
    x, y, _, w = problem(5, 6, 3)
    late = lambda t: torch._neg_view(-t)
    calls = ops(x, y, w, KERNELS["gaussian"], backend=name)
    for op, call in ops(late(x), late(y), late(w), KERNELS["gaussian"], backend=name).items():
        torch.testing.assert_close(call(), calls[op](), msg=op)
    z = x.clone().requires_grad_()
    f = dk.potential(z, y, w[:, 0], KERNELS["gaussian"], backend=name)
    upstream = torch.randn_like(f)
    (expected,) = torch.autograd.grad(f, z, upstream, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(f, z, late(upstream))[0], expected)


@each_backend
def test_zeros_that_torch_has_not_stored_are_zeros(name):
    kernel = dk.gaussian(1.0)
    none, y, w = torch._efficientzerotensor((5, 3)), torch.randn(6, 3), torch.ones(6)
    for _ in range(2):  # the second goes the way that the first has prepared
        f = dk.potential(none, y, w, kernel, backend=name)
        torch.testing.assert_close(f, dk.potential(torch.zeros(5, 3), y, w, kernel, backend=name))
        dk.potential(torch.randn(5, 3), y, w, kernel, backend=name)
    g = dk.potential_grad(y, y, torch._efficientzerotensor((6,)), kernel, backend=name)
    assert torch.equal(g, torch.zeros(6, 3))


def test_metrics_take_mixed_dtypes():
    x, y = torch.randn(40, 3), torch.randn(40, 3)
    for metric in (metrics.energy_distance, metrics.fid, metrics.kid, metrics.cmmd):
        got = metric(x.half(), y.double())
        assert got == pytest.approx(metric(x.half().double(), y.double()))
    nearest = metrics.nearest_distance(x.half(), y)
    torch.testing.assert_close(nearest, metrics.nearest_distance(x.half().float(), y))
    with pytest.raises(ValueError, match=r"fid: x must be \(N, D\), got .* pass x\.flatten\(1\)"):
        metrics.fid(torch.randn(8, 3, 8, 8), y)
