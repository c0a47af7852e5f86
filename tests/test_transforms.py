"""The ops under every transform of torch: right, or an error that says so; never a silent zero."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import dmmd_kernels as dk
from dmmd_kernels.autograd import bilinear, row_sums
from tests.cases import DEVICE, KERNELS, compiled_form, each_kernel, problem

SIGMA = torch.tensor(0.9, dtype=torch.float64, device=DEVICE)


def inputs():
    z, x, _, w = problem(4, 6, 3, dtype=torch.float64)
    return z + 0.1, x, w[:, 0]


def functions(kernel):
    """Scalar functions of z made of every op."""
    _, x, w = inputs()
    return {
        "potential": lambda z: dk.potential(z, x, w, kernel).sum(),
        "potential_grad": lambda z: dk.potential_grad(z, x, w, kernel).square().sum(),
        "potential_and_grad": lambda z: sum(
            t.square().sum() for t in dk.potential_and_grad(z, x, w, kernel)
        ),
        "kernel_matrix": lambda z: dk.kernel_matrix(z, x, kernel).square().sum(),
        "mmd2": lambda z: dk.mmd2(z, x, kernel),
        "witness": lambda z: dk.witness(z, z.detach(), x, kernel).square().sum(),
    }


each_function = pytest.mark.parametrize("name", functions(dk.gaussian(1.0)).keys())


@each_function
@each_kernel
def test_func_grad_is_autograd(name, kernel):
    z, _, _ = inputs()
    f = functions(kernel)[name]
    expected = torch.autograd.functional.jacobian(f, z)
    torch.testing.assert_close(grad(f)(z), expected)
    torch.testing.assert_close(jacrev(f)(z), expected)
    torch.testing.assert_close(jacfwd(f)(z), expected)


@pytest.mark.parametrize("name", ["potential", "kernel_matrix", "mmd2", "witness"])
@each_kernel
def test_hessian_is_autograd_twice(name, kernel):
    z, _, _ = inputs()
    f = functions(kernel)[name]
    expected = torch.autograd.functional.hessian(f, z)
    torch.testing.assert_close(hessian(f)(z), expected)
    torch.testing.assert_close(jacrev(jacrev(f))(z), expected)


@each_function
@each_kernel
def test_forward_mode_is_reverse_mode(name, kernel):
    z, _, _ = inputs()
    direction = torch.randn_like(z)
    f = functions(kernel)[name]
    expected = (torch.autograd.functional.jacobian(f, z) * direction).sum()
    torch.testing.assert_close(jvp(f, (z,), (direction,))[1], expected)
    with forward_ad.dual_level():
        dual = f(forward_ad.make_dual(z, direction))
        tangent = forward_ad.unpack_dual(dual).tangent
        if tangent is None:  # what does not depend on z has no tangent: the linear gradient
            tangent = torch.zeros_like(expected)
        torch.testing.assert_close(tangent, expected)


def test_forward_mode_in_every_argument():
    z, x, w = inputs()

    def f(z, x, w, sigma):
        kernel = dk.gaussian(sigma) + sigma * dk.rational_quadratic(sigma)
        return dk.potential(z, x, w, kernel), dk.potential_grad(z, x, w, kernel)

    arguments = (z, x, w, SIGMA)
    directions = tuple(torch.randn_like(t) for t in arguments)
    _, got = jvp(f, arguments, directions)
    step = 1e-6
    ahead, behind = (
        f(*(t + s * v for t, v in zip(arguments, directions, strict=True))) for s in (step, -step)
    )
    for tangent, a, b in zip(got, ahead, behind, strict=True):
        torch.testing.assert_close(tangent, (a - b) / (2 * step), rtol=1e-6, atol=1e-7)


@each_kernel
def test_vmap_is_a_loop(kernel):
    z, x, w = inputs()
    many = torch.stack([z, 2 * z, 3 * z])
    for f in (
        lambda z: dk.potential(z, x, w, kernel),
        lambda z: dk.potential(x, z, w[:4], kernel),
        lambda z: dk.potential_grad(z, x, w, kernel),
        lambda z: dk.kernel_matrix(z, x, kernel),
        lambda z: dk.mmd2(z, x, kernel),
        grad(lambda z: dk.mmd2(z, x, kernel)),
    ):
        torch.testing.assert_close(vmap(f)(many), torch.stack([f(z) for z in many]))


def test_vmap_inside_vmap_and_over_batches():
    z, x, _ = inputs()
    clouds, widths = torch.stack([z, 2 * z, 3 * z]), torch.tensor([0.5, 1.5]).to(z)
    f = lambda z, s: dk.mmd2(z, x, dk.gaussian(s))
    got = vmap(vmap(f, (0, None)), (None, 0))(clouds, widths)
    expected = torch.stack([torch.stack([f(z, s) for z in clouds]) for s in widths])
    torch.testing.assert_close(got, expected)
    batched = vmap(lambda s: dk.mmd2(clouds, x, dk.gaussian(s)))(widths)
    torch.testing.assert_close(batched, expected)


@pytest.mark.parametrize("kernel", ["gaussian", "linear", "everything"])
def test_compiles_without_a_graph_break(kernel):
    kernel = KERNELS[kernel]
    z, x, w = (t.requires_grad_() for t in inputs())
    sigma = SIGMA.clone().requires_grad_()

    def loss(z, x, w, sigma):
        f = dk.potential(2 * z, x, w, kernel + dk.gaussian(sigma))
        return f.square().sum() + dk.mmd2(z, x, kernel) + dk.potential_grad(z, x, w, kernel).sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (4, 3):
        arguments = (z[:size].detach().requires_grad_(), x, w, sigma)
        expected = torch.autograd.grad(loss(*arguments), arguments)
        torch.testing.assert_close(torch.autograd.grad(compiled(*arguments), arguments), expected)
    torch._dynamo.reset()


def test_exports_with_a_dynamic_dimension():
    class Discrepancy(torch.nn.Module):
        def forward(self, x, y):
            return dk.mmd2(x, y, dk.gaussian(1.0)), dk.potential(x, y, y[:, 0], dk.imq(1.0))

    z, x, _ = inputs()
    points = torch.export.Dim("points", min=2)
    program = torch.export.export(Discrepancy(), (z, x), dynamic_shapes=({0: points}, None))
    longer = torch.cat([z, z + 1])
    torch.testing.assert_close(program.module()(longer, x), Discrepancy()(longer, x))


def operator_arguments(name, layout):
    z, x, _, w = problem(5, 7, 3, dtype=torch.float64)
    if layout == "transposed":
        z, x = z.mT.contiguous().mT, x.mT.contiguous().mT
    elif layout == "offset":
        z, x = torch.cat([z[:1], z])[1:], torch.cat([x[:1], x])[1:]
    elif layout == "expanded":
        z = z.expand(2, *z.shape)
    elif layout == "one point":
        z = z[:1]
    elif layout == "empty":
        z = z[:0]
    params = compiled_form("gaussians", z).params
    v = w.new_ones(x.shape[-2], 1)
    return {
        "potential": (z, x, w, params),
        "potential_grad": (z, x, None, w, params),
        "potential_and_grad": (z, x, w, params),
        "params_grad": (z, x, None, w, params),
        "quadratic_form": (x, v, v, params),
        "quadratic_form_and_grad": (x, v, v, params, None),
        "quadratic_form_and_grads": (z, *2 * [w.new_ones(z.shape[-2] + len(x), 1)], params, x),
        "kernel_matrix": (z, x, params),
    }[name]


@pytest.mark.parametrize(
    "layout", ["contiguous", "transposed", "offset", "expanded", "one point", "empty"]
)
@pytest.mark.parametrize(
    "name",
    [
        "potential",
        "potential_grad",
        "potential_and_grad",
        "params_grad",
        "quadratic_form",
        "quadratic_form_and_grad",
        "quadratic_form_and_grads",
        "kernel_matrix",
    ],
)
def test_is_a_well_behaved_operator(name, layout):
    tensors = [
        t if t is None else t.detach().requires_grad_() for t in operator_arguments(name, layout)
    ]
    profiles = compiled_form("gaussians", tensors[0]).profiles
    how = (profiles, False, "highest", "auto")
    torch.library.opcheck(getattr(torch.ops.dmmd, name).default, (*tensors, *how))


@pytest.mark.parametrize("weighted", [False, True])
def test_sums_are_well_behaved_operators(weighted):
    x, _, w, _ = (t.requires_grad_() for t in problem(5, 7, 3, dtype=torch.float64))
    w = w if weighted else None
    o, a, b = x[:1].detach(), x[1:2].detach().requires_grad_(), x[2:3, :1].detach()
    how = (*row_sums.HOW, "highest", "auto")
    torch.library.opcheck(torch.ops.dmmd.row_sums.default, (x, w, o, *how))
    torch.library.opcheck(torch.ops.dmmd.row_sums_grad.default, (x, w, o, a, b, *how))


@pytest.mark.parametrize("operator", [row_sums.row_sums, row_sums.row_sums_grad])
def test_sums_have_derivatives_in_every_argument(operator):
    x, _, w, _ = problem(4, 7, 3, dtype=torch.float64)
    along = (torch.randn_like(x[:1]), torch.randn_like(x[:1, :1]))
    tensors = (x, w, x[:1] + 1, *along)[: len(operator.tensors)]
    tensors = tuple(t.detach().requires_grad_() for t in tensors)
    call = lambda *tensors: operator(*tensors, *row_sums.HOW, "highest", "auto")
    assert torch.autograd.gradcheck(call, tensors, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, tensors)


@pytest.mark.parametrize("name", ["tangents", "tangent_grad"])
def test_tangents_are_well_behaved_operators_without_a_derivative(name):
    z, x, _, w = problem(5, 7, 3, dtype=torch.float64)
    mixture = compiled_form("gaussians", z)
    arguments = (z, x, None, w, mixture.params, z, None, None)
    how = (mixture.profiles, False, "highest", "auto")
    operator = getattr(torch.ops.dmmd, name).default
    torch.library.opcheck(
        operator, (*arguments, *how), test_utils=("test_schema", "test_faketensor")
    )
    results = operator(z.requires_grad_(), *arguments[1:], *how)
    g = results if name == "tangent_grad" else results[1]
    with pytest.raises(NotImplementedError, match="a third was asked for"):
        g.sum().backward()


@pytest.mark.parametrize("p", [1, 2])
def test_the_tangent_of_a_potential_has_every_derivative_and_those_have_none(p):
    """It is first order, so it has one more in every mode, in points, weights and directions."""
    z, x, _, w = problem(3, 4, 2, p, dtype=torch.float64)
    mixture = compiled_form("gaussians", z)
    tensors = (z, x, w, mixture.params, z.flip(0), x.flip(0), mixture.params.flip(0))
    tensors = tuple(t.detach().clone().requires_grad_() for t in tensors)
    how = (mixture.profiles, False, "highest", "auto")
    call = lambda *tensors: bilinear.tangent(*tensors, *how)
    checks = dict(check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert torch.autograd.gradcheck(call, tensors, **checks)
    first = lambda *tensors: bilinear.tangents(*tensors[:2], None, *tensors[2:], *how)[0]
    if p == 1:
        assert torch.autograd.gradcheck(first, tensors)
    g = torch.autograd.grad(call(*tensors).sum(), tensors[0], create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="a third was asked for"):
        g.sum().backward()


@pytest.mark.parametrize("escape", [lambda z: z, lambda z: 1.0 * z.detach()])
def test_a_tensor_that_outlived_its_transform_is_unwrapped(escape):
    z, x, w = inputs()
    escaped = []
    grad(lambda z: escaped.append(escape(z)) or z.sum())(z)
    for cloud in (x, x.clone().requires_grad_()):
        got = dk.potential(escaped[0], cloud, w, KERNELS["gaussian"])
        assert torch.equal(got, dk.potential(z, x, w, KERNELS["gaussian"]))


@each_kernel
@pytest.mark.parametrize("op", [dk.potential, dk.potential_grad])
def test_vmap_of_the_backward_of_an_eager_call(op, kernel):
    """The call has saved its weights as a vector, and the mapped gradient needs columns."""
    z, x, w = (t.requires_grad_() for t in inputs())
    f = op(z, x, w, kernel)
    upstream = torch.randn(3, *f.shape, dtype=f.dtype, device=DEVICE)
    pull = lambda v: torch.autograd.grad(f, (x, w), v, retain_graph=True)
    alone = [torch.stack(gradients) for gradients in zip(*map(pull, upstream), strict=True)]
    torch.testing.assert_close(vmap(pull)(upstream), tuple(alone))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_leaves_the_ops_alone(dtype):
    z, x, w = (t.float() for t in inputs())
    expected = dk.potential(z, x, w, dk.gaussian(1.0))
    with torch.autocast(DEVICE, dtype=dtype):
        assert torch.equal(dk.potential(z, x, w, dk.gaussian(1.0)), expected)


@pytest.mark.parametrize("product", [lambda w, k: w * k, lambda w, k: k * w], ids=["w k", "k w"])
def test_a_kernel_times_a_tensor_compiles(product):
    x, y, w = torch.randn(5, 2), torch.randn(6, 2), torch.tensor(2.0, requires_grad=True)
    gap = lambda w: dk.mmd2(x, y, product(w, dk.gaussian(1.0)))
    plain = dk.mmd2(x, y, dk.gaussian(1.0))
    got = torch.compile(gap, fullgraph=True, backend="eager")(w)
    torch.testing.assert_close(got, 2 * plain)
    torch.testing.assert_close(torch.autograd.grad(got, w)[0], plain)
    with pytest.raises(TypeError, match=r"no implementation found|Multiple dispatch failed"):
        torch.exp(dk.gaussian(1.0))
