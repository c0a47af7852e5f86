"""Every op under every transform, eager and compiled: dense plain torch's result, or a sentence."""

import pytest
import torch

import dmmd_kernels as dk
from tests.transforms import KERNELS, OPS, TRANSFORMS, Z

pytestmark = pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr")  # linearize
THIRD = "a third was asked for"


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


# linearize takes a second a call.
each_transform = pytest.mark.parametrize(
    "transform",
    [pytest.param(t, marks=pytest.mark.slow) if t == "linearize" else t for t in TRANSFORMS],
)


@each_transform
@pytest.mark.parametrize("name", OPS)
def test_an_op_is_plain_torch_or_says_what_it_lacks(name, transform):
    (ours, plain, has), (of, takes) = OPS[name], TRANSFORMS[transform]
    kernel = KERNELS["mixture"]
    call = of(lambda z: ours(kernel.ours, z))
    if takes > has:
        with pytest.raises(NotImplementedError, match=THIRD):
            call(Z)
    else:
        close(call(Z), of(lambda z: plain(kernel.dense, z))(Z))


@each_transform
@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.order > 1])
def test_a_linear_kernel_is_plain_torch(name, transform):
    ours, plain, _ = OPS[name]
    kernel, of = KERNELS["linear"], TRANSFORMS[transform].of
    close(of(lambda z: ours(kernel.ours, z))(Z), of(lambda z: plain(kernel.dense, z))(Z))


def combined(kernel, names, which):
    """One function of many ops: each compilation takes seconds."""
    functions = [getattr(OPS[name], which) for name in names]
    return lambda z: torch.stack([f(kernel, z).square().sum() for f in functions])


COMPILED = ["jvp", "jvp(jvp)", "grad(jvp)", "vmap(grad)"]
SLOW = ["jvp(grad)", "jacfwd", "jacrev", "hessian", "forward_ad"]


@pytest.mark.parametrize(
    "transform", [*COMPILED, *[pytest.param(t, marks=pytest.mark.slow) for t in SLOW]]
)
def test_a_compiled_transform_is_plain_torch(transform):
    kernel, (of, takes) = KERNELS["gaussian"], TRANSFORMS[transform]
    names = ["potential", "kernel_matrix", "mmd2"] + ["witness_grad"] * (takes < 2)
    call = of(combined(kernel.ours, names, "ours"))
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    close(compiled(Z), of(combined(kernel.dense, names, "plain"))(Z))
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["jvp", "grad", "grad(jvp)"])
def test_a_transform_that_breaks_the_graph_is_plain_torch(transform):
    kernel, of = KERNELS["gaussian"], TRANSFORMS[transform].of
    ours = lambda z: torch._dynamo.graph_break() or OPS["mmd2"].ours(kernel.ours, z)
    expected = of(lambda z: OPS["mmd2"].plain(kernel.dense, z))(Z)
    close(torch.compile(of(ours), backend="aot_eager")(Z), expected)
    torch._dynamo.reset()


def kinked(name, number):
    """The matrix of laplace or energy, constant where points coincide; number is its parameter."""

    def dense(z, x):
        q = (z[:, None] - x[None]).square().sum(-1)
        r = torch.where(q == 0, 1.0, q).sqrt()
        value = torch.exp(-r / number) if name == "laplace" else -(r**number)
        return torch.where(q == 0, 1.0 if name == "laplace" else 0.0, value)

    return dense


@pytest.mark.parametrize(
    "transform", [name for name, transform in TRANSFORMS.items() if transform.order == 2]
)
@pytest.mark.parametrize("name", ["laplace", "energy"])
@pytest.mark.parametrize("op", ["potential", "kernel_matrix"])
def test_second_derivatives_where_points_coincide(op, name, transform):
    """Every point of x is one of z: such a pair is constant, also in the kernel's parameter."""
    of, x, w = TRANSFORMS[transform].of, Z[:3].clone(), Z[:3, 0].clone()
    number = lambda z: 1 + 0.3 * z[0, 0].sin()
    matrix = lambda z: kinked(name, number(z))(z, x)
    kernel = lambda z: getattr(dk, name)(number(z))
    if op == "potential":
        ours, plain = lambda z: dk.potential(z, x, w, kernel(z)), lambda z: matrix(z) @ w
    else:
        ours, plain = lambda z: dk.kernel_matrix(z, x, kernel(z)), matrix
    close(of(ours)(Z), of(plain)(Z))
