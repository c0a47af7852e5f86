"""What torch records to run later: traces, exports, graphs for other numbers and other tensors."""

import io

import pytest
import torch
from torch._dynamo.utils import counters

import dmmd_kernels as dk
from dmmd_kernels.autograd.recorded import check_recorded
from tests.transforms import ALONG, KERNELS, OPS, POSITIVE, W, X, Y, Z

LINEAR = ("linear", "mixture")
traced = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit")


def plain(name, kernel):
    return lambda z: OPS[name].plain(KERNELS[kernel].dense, z)


def ours(name, kernel):
    return lambda z: OPS[name].ours(KERNELS[kernel].ours, z)


@traced
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", OPS)
def test_a_trace_is_right_for_other_points(name, kernel):
    """It once held memory that nobody filled: what C++ writes, torch.jit.trace does not see."""
    trace = torch.jit.trace(ours(name, kernel), (Z,))
    torch.testing.assert_close(trace(Z + ALONG), plain(name, kernel)(Z + ALONG))


@traced
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_trace_is_right_for_more_points_and_differentiable(kernel):
    for name in ("mmd2", "witness", "hold"):
        trace = torch.jit.trace(ours(name, kernel), (Z,))
        more = torch.cat([Z, Z + ALONG]).requires_grad_()
        expected = plain(name, kernel)(more)
        torch.testing.assert_close(trace(more), expected)
        got, want = (torch.autograd.grad(t.sum(), more)[0] for t in (trace(more), expected))
        torch.testing.assert_close(got, want)


@traced
def test_a_trace_of_a_module_is_saved_and_loaded():
    module = torch.nn.Sequential(torch.nn.Linear(3, 3, dtype=Z.dtype, device=Z.device))

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.loss = module, dk.MMDLoss(dk.gaussian(1.0))

        def forward(self, x, y):
            return self.loss(self.features(x), y)

    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(Step(), (Z, X)), file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(Y, X), Step()(Y, X))


@traced
def test_a_trace_refuses_what_does_not_fit_its_weights():
    trace = torch.jit.trace(lambda x: dk.potential(Z, x, W, dk.gaussian(1.0)), (X,))
    with pytest.raises(RuntimeError, match=r"w \(6, 1\).*does not fit.*record it anew"):
        trace(Y)
    with pytest.raises(RuntimeError, match=r"does not fit.*record it anew"):
        trace(X.float())


@pytest.mark.parametrize(
    ("names", "shapes", "wrong"),
    [
        ("z x w params", [(4, 3), (6, 2), (6, 1), (1, 3)], "x"),
        ("z x v w params", [(4, 3), (6, 3), (5, 2), (6, 2), (1, 3)], "v"),
        ("z x v w params", [(4, 3), (6, 3), (4, 2), (6, 1), (1, 3)], "w"),
        ("z x w params a", [(4, 3), (6, 3), (6,), (2, 3), (5, 3)], "a"),
        ("z x w params", [(2, 4, 3), (6, 3), (3, 6, 1), (1, 3)], "w"),
        ("u v w params held", [(4, 3), (7, 1), (7, 1), (1, 3), (2, 3)], "v"),
        ("x w o a b", [(4, 3), (4,), (1, 3), (1, 3), (1, 2)], "b"),
    ],
)
def test_recorded_calls_are_checked(names, shapes, wrong):
    tensors = [torch.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match=f"dmmd::op: {wrong} "):
        check_recorded("op", names.split(), tensors)


def test_scripting_says_what_to_do():
    kernel = dk.gaussian(1.0)

    def loss(x: torch.Tensor, y: torch.Tensor):
        return dk.mmd2(x, y, kernel)

    for scripted in (loss, dk.potential, dk.MMDLoss(kernel), torch.nn.Sequential(dk.EnergyLoss())):
        with (
            pytest.warns(DeprecationWarning, match="torch.jit.script"),
            pytest.raises(NotImplementedError, match=r"use torch\.jit\.trace or torch\.export"),
        ):
            torch.jit.script(scripted)


@traced
def test_onnx_export_says_what_to_do(monkeypatch):
    """Both of torch's exporters record with this flag set; neither package need be installed."""
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    with pytest.raises(NotImplementedError, match="ONNX has no operator for dmmd::kernel_matrix"):
        torch.jit.trace(lambda x: dk.kernel_matrix(x, X, dk.gaussian(1.0)), (Z,))

    class Loss(torch.nn.Module):
        def forward(self, x):
            return dk.mmd2(x, X, dk.gaussian(1.0))

    with pytest.raises(NotImplementedError, match="ONNX has no operator for dmmd::quadratic_form"):
        torch.export.export(Loss(), (Z,))


def kernel_of(number):
    """Every constructor, of one Python number."""
    return (
        dk.mixture([dk.gaussian(number), dk.laplace(2 * number)], weights=[number, 0.5])
        + dk.rational_quadratic(number, number)
        + dk.imq(number)
        + number * dk.energy(number / 3)
        + number * dk.linear()
        + dk.polynomial(2, number, number)
    )


def test_a_step_compiles_once_for_every_number():
    """For the first, and for all others: as plain torch does."""
    step = lambda x, number: dk.mmd2(x, X, kernel_of(number))
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    counters.clear()
    for number in (1.0, 1.5, 2.0, 0.7):
        torch.testing.assert_close(compiled(Z, number), step(Z, number))
    assert counters["stats"]["unique_graphs"] <= 2
    with pytest.raises(ValueError, match="must be a positive finite number"):
        dk.gaussian(float("nan"))
    torch._dynamo.reset()


FEATURES = {
    "mmd2": lambda k, x, y, w: dk.mmd2(x, y, k, weights_y=w),
    "mmd2, equal weights": lambda k, x, y, w: dk.mmd2(x, y, k),
    "kernel_matrix": lambda k, x, y, w: dk.kernel_matrix(x, y, k).square().sum(),
    "potential": lambda k, x, y, w: dk.potential(x, y, w, k).square().sum(),
    "potential of x": lambda k, x, y, w: dk.potential(y, x, w[:4], k).square().sum(),
    "potential, weights": lambda k, x, y, w: dk.potential(y, y[:4], x[:, 0], k).square().sum(),
    "potential_grad": lambda k, x, y, w: dk.potential_grad(x, y, w, k).square().sum() + x.sum(),
    "potential_and_grad": lambda k, x, y, w: sum(
        t.square().sum() for t in dk.potential_and_grad(x, y, w, k)
    ),
    "witness": lambda k, x, y, w: dk.witness(y, x, y, k).square().sum(),
    "witness_grad": lambda k, x, y, w: dk.witness_grad(x, y[:2], y, k).square().sum() + x.sum(),
    "hold": lambda k, x, y, w: dk.hold(y, k).mmd2(x),
    "batch": lambda k, x, y, w: dk.mmd2(torch.stack([x, -x]), y, k).sum(),
    "MMDLoss": lambda k, x, y, w: dk.MMDLoss(k)(x, y),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", FEATURES)
def test_targets_of_inference_mode_are_targets_like_others(name, kernel):
    call, kernel = FEATURES[name], KERNELS[kernel].ours
    with torch.inference_mode():
        y, w = X.clone(), POSITIVE.clone()
    x = Z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(call(kernel, x, X, POSITIVE), x)
    for _ in range(2):  # the second call goes the way that the first has prepared
        (got,) = torch.autograd.grad(call(kernel, x, y, w), x)
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.func.grad(lambda z: call(kernel, z, y, w))(Z), expected)


def test_a_flow_of_a_dual_tensor_is_refused():
    """Its tangent would silently be lost."""
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(Z, ALONG)
        with pytest.raises(ValueError, match="the flow is not differentiable"):
            dk.flow(dual, X, dk.gaussian(1.0), step_size=0.1, steps=1)


@pytest.mark.parametrize(
    "op",
    [
        lambda x, y: dk.median_sigma(x, y),
        lambda x, y: dk.sigma_range(x, y),
        lambda x, y: dk.permutation_test(x, y, dk.gaussian(1.0), permutations=9).statistic,
        lambda x, y: dk.wild_bootstrap_test(x, y, dk.gaussian(1.0), draws=9).statistic,
        lambda x, y: dk.mmd2(x, y, dk.select_kernel(x, y, [dk.gaussian(1.0)])),
    ],
    ids=["median_sigma", "sigma_range", "permutation_test", "wild_bootstrap_test", "select_kernel"],
)
def test_what_depends_on_an_order_of_numbers_is_not_recorded(op):
    clouds = torch.randn(8, 2), torch.randn(8, 2)
    op(*clouds)
    with pytest.raises(NotImplementedError, match=r"cannot be recorded by torch\.jit\.trace"):
        torch.jit.trace(op, clouds)
