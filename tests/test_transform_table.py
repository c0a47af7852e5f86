"""Every op under every transform, eager and compiled: dense plain torch's result, or a sentence."""

import pytest
import torch

from tests.transforms import KERNELS, OPS, TRANSFORMS, Z

pytestmark = pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr")  # linearize
THIRD = "a third was asked for"


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("transform", TRANSFORMS)
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


@pytest.mark.parametrize("transform", TRANSFORMS)
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
