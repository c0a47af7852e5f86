"""geomloss: against plain code, and against the package where it is installed."""

import sys

import pytest
import torch

from dmmd_kernels import compat
from dmmd_kernels.compat.geomloss import KERNELS, SamplesLoss
from tests.compat import plain

BLUR = 0.7
PLAIN = {
    "gaussian": lambda x, y: torch.exp(-plain.squares(x, y) / (2 * BLUR**2)),
    "laplacian": lambda x, y: torch.exp(-plain.floored(x / BLUR, y / BLUR)),
    "energy": lambda x, y: -plain.floored(x, y),
}
each_loss = pytest.mark.parametrize("loss", KERNELS)
SHAPES = [((5, 3), (7, 3)), ((40, 1), (40, 1)), ((2, 6, 4), (2, 9, 4)), ((1, 5, 2), (1, 5, 2))]


def arguments(shape_x, shape_y, weighted=True):
    x, y = torch.randn(shape_x).double(), torch.randn(shape_y).double() + 0.5
    if not weighted:
        return x, y
    return torch.rand(shape_x[:-1]).double(), x, torch.rand(shape_y[:-1]).double(), y


def derivatives(loss, *tensors):
    tensors = [t.clone().requires_grad_() for t in tensors]
    value = loss(*tensors)
    return [value, *torch.autograd.grad(value.sum(), tensors)]


@each_loss
def test_value_and_two_derivatives_are_those_of_plain_code(loss):
    tensors = [t.requires_grad_() for t in arguments((5, 3), (7, 3))]
    found = []
    for value in (SamplesLoss(loss, blur=BLUR)(*tensors), plain.half_norm(*tensors, PLAIN[loss])):
        first = torch.autograd.grad(value, tensors, create_graph=True)
        along = sum((g * (1 + torch.arange(g.numel()).view_as(g))).sum() for g in first)
        found.append([value, *first, *torch.autograd.grad(along, tensors)])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


@each_loss
def test_a_batch_is_its_blocks_and_weights_default_to_equal_ones(loss):
    x, y = arguments((2, 6, 4), (2, 9, 4), weighted=False)
    got = SamplesLoss(loss, blur=BLUR)(x, y)
    equal = [torch.full((n,), 1 / n).double() for n in (6, 9)]
    want = [
        plain.half_norm(equal[0], a, equal[1], b, PLAIN[loss]) for a, b in zip(x, y, strict=True)
    ]
    torch.testing.assert_close(got, torch.stack(want))


@each_loss
def test_potentials_are_the_witness_and_minus_the_witness(loss):
    a, x, b, y = arguments((5, 3), (7, 3))
    k = PLAIN[loss]
    f, g = SamplesLoss(loss, blur=BLUR, potentials=True)(a[:, None], x, b[:, None], y)
    torch.testing.assert_close(f, k(x, x) @ a - k(x, y) @ b)
    torch.testing.assert_close(g, k(y, y) @ b - k(y, x) @ a)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((torch.ones(3), torch.ones(4)), r"x must be \(N, D\)"),
        ((torch.ones(3, 2),), "got 1 of them"),
        ((torch.ones(3, 2), torch.ones(2, 3, 2)), "one batch size"),
        ((torch.ones(4), torch.ones(3, 2), torch.ones(3), torch.ones(3, 2)), "weights a must be"),
    ],
)
def test_inputs_that_do_not_fit_are_named(args, message):
    with pytest.raises(ValueError, match=message):
        SamplesLoss("energy")(*args)


def test_other_losses_need_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "geomloss", None)
    with pytest.raises(ImportError, match="loss must be 'gaussian', 'laplacian' or 'energy'"):
        SamplesLoss("sinkhorn")


@each_loss
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [True, False])
def test_values_and_gradients_are_those_of_the_package(loss, shapes, weighted):
    geomloss = pytest.importorskip("geomloss", reason="geomloss is not installed")
    tensors = arguments(*shapes, weighted)
    theirs = geomloss.SamplesLoss(loss, blur=BLUR, backend="tensorized")
    wanted = derivatives(theirs, *tensors)
    for got, want in zip(derivatives(SamplesLoss(loss, blur=BLUR), *tensors), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)
    with compat.patch("geomloss"):
        patched = derivatives(theirs, *tensors)
    for got, want in zip(patched, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)


@each_loss
def test_potentials_are_those_of_the_package(loss):
    geomloss = pytest.importorskip("geomloss", reason="geomloss is not installed")
    tensors = arguments((2, 5, 3), (2, 7, 3))
    options = {"blur": BLUR, "potentials": True}
    theirs = geomloss.SamplesLoss(loss, backend="tensorized", **options)
    wanted = theirs(*tensors)
    torch.testing.assert_close(SamplesLoss(loss, **options)(*tensors), wanted)
    with compat.patch("geomloss"):
        torch.testing.assert_close(theirs(*tensors), wanted)


def test_other_losses_and_kernels_are_those_of_the_package():
    geomloss = pytest.importorskip("geomloss", reason="geomloss is not installed")
    x, y = arguments((5, 3), (7, 3), weighted=False)

    def cosine(x, y, blur=None, **_):
        return x @ y.mT

    for options in ({"loss": "sinkhorn"}, {"loss": "gaussian", "kernel": cosine}):
        theirs = geomloss.SamplesLoss(**options, backend="tensorized")
        want = theirs(x, y)
        torch.testing.assert_close(SamplesLoss(**options, backend="tensorized")(x, y), want)
        with compat.patch("geomloss"):
            torch.testing.assert_close(theirs(x, y), want)


def flow_on_a_line(criterion, steps: int) -> torch.Tensor:
    """The package's example: 10 points flow to 10 others by explicit Euler steps of 0.01."""
    t = torch.linspace(0, 1, 10, dtype=torch.float64)[:, None]
    x, y = (0.2 * t).requires_grad_(), 0.4 * t + 0.6
    path = []
    for _ in range(steps):
        (g,) = torch.autograd.grad(criterion(x, y), [x])
        x.data -= 0.01 * len(x) * g
        path.append(x.detach().clone())
    return torch.stack(path)


# A laplacian this narrow makes the flow chaotic once points cross: rounding decides what follows.
# Under the energy a pair pushes by 0.001 a step, but nearer than 1e-4 not at all in the package.
FLOWS = [
    ("gaussian", 0.5, 500, 1e-9),
    ("gaussian", 0.1, 500, 1e-9),
    ("laplacian", 0.1, 25, 1e-9),
    ("energy", 0.05, 500, 2e-3),
]


@pytest.mark.parametrize(("loss", "blur", "steps", "atol"), FLOWS)
def test_the_gradient_flows_of_the_example_are_reproduced_by_the_import_swap(
    loss, blur, steps, atol
):
    geomloss = pytest.importorskip("geomloss", reason="geomloss is not installed")
    theirs = flow_on_a_line(geomloss.SamplesLoss(loss, blur=blur, backend="tensorized"), steps)
    assert (theirs[-1] - theirs[0]).abs().max() > 0.1
    ours = flow_on_a_line(SamplesLoss(loss, blur=blur), steps)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
