"""What must hold for any input: invariances, symmetry, positivity, any shape and stride.

Examples come from hypothesis; DMMD_HYPOTHESIS=nightly draws ten times as many.
"""

import torch
from hypothesis import given
from hypothesis import strategies as st

import dmmd_kernels as dk
from tests.cases import DEVICE, KERNELS

sizes = st.integers(0, 257)
dimensions = st.integers(1, 130)
seeds = st.integers(0, 2**31 - 1)
kernels = st.sampled_from(sorted(KERNELS))
radial_kernels = st.sampled_from(
    [name for name in KERNELS if name not in ("linear", "polynomial", "everything")]
)
dtypes = st.sampled_from([torch.float32, torch.float64])


def draw(seed, *shapes, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g).to(DEVICE, dtype) for shape in shapes]


@given(sizes, sizes, dimensions, kernels, dtypes, seeds)
def test_any_size_agrees_with_the_kernel_matrix(n, m, d, kernel, dtype, seed):
    z, x, w = draw(seed, (n, d), (m, d), (m,), dtype=dtype)
    z, x = z / d**0.5, x / d**0.5
    f = dk.potential(z, x, w, KERNELS[kernel])
    matrix = dk.kernel_matrix(z.double(), x.double(), KERNELS[kernel], backend="reference")
    expected = matrix @ w.double()
    bound = 64 * torch.finfo(dtype).eps * (matrix.abs() @ w.double().abs() + 1)
    assert ((f.double() - expected).abs() <= bound).all()


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), kernels, seeds,
    st.integers(1, 3), st.integers(0, 5), st.booleans(),
)  # fmt: skip
def test_strides_and_offsets_do_not_matter(n, m, d, kernel, seed, step, offset, transposed):
    wide, x, w = draw(seed, (offset + step * n, offset + step * d), (m, d), (m,))
    if transposed:
        wide = wide.mT.contiguous().mT
    z = wide[offset::step, offset::step][:n, :d]
    kernel = KERNELS[kernel]
    for op in (dk.potential, dk.potential_grad):
        torch.testing.assert_close(op(z, x, w, kernel), op(z.contiguous(), x, w, kernel))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), radial_kernels, seeds)
def test_moving_everything_changes_nothing(n, m, d, kernel, seed):
    z, x, w, shift = draw(seed, (n, d), (m, d), (m,), (d,))
    kernel = KERNELS[kernel]
    for op in (dk.potential, dk.potential_grad):
        torch.testing.assert_close(
            op(z + shift, x + shift, w, kernel), op(z, x, w, kernel), rtol=1e-7, atol=1e-7
        )


@given(st.integers(1, 60), st.integers(1, 20), radial_kernels, seeds)
def test_a_rotation_turns_the_gradient(n, d, kernel, seed):
    z, x, w, basis = draw(seed, (n, d), (n + 3, d), (n + 3,), (d, d))
    q, _ = torch.linalg.qr(basis)
    kernel = KERNELS[kernel]
    g = dk.potential_grad(z @ q, x @ q, w, kernel)
    torch.testing.assert_close(g, dk.potential_grad(z, x, w, kernel) @ q, rtol=1e-7, atol=1e-7)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), kernels, seeds)
def test_the_order_of_the_cloud_does_not_matter(n, m, d, kernel, seed):
    z, x, w = draw(seed, (n, d), (m, d), (m,))
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    f = dk.potential(z, x, w, KERNELS[kernel])
    torch.testing.assert_close(dk.potential(z, x[order], w[order], KERNELS[kernel]), f)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 10), kernels, seeds)
def test_the_biased_estimate_is_a_squared_distance(n, m, d, kernel, seed):
    x, y = draw(seed, (n, d), (m, d))
    kernel = KERNELS[kernel]
    forth = dk.mmd2(x, y, kernel, estimator="biased")
    assert forth > -1e-9
    torch.testing.assert_close(dk.mmd2(y, x, kernel, estimator="biased"), forth)


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 10), kernels, seeds)
def test_the_unbiased_estimate_never_sees_the_diagonal(n, m, d, kernel, seed):
    """Moving mass onto the diagonal, k(x, y) + c·[x = y], leaves it alone: distinct points only."""
    x, y = draw(seed, (n, d), (m, d))
    kernel = KERNELS[kernel]
    spike = dk.gaussian(1e-12)  # 1 on the diagonal, 0 between distinct points
    torch.testing.assert_close(dk.mmd2(x, y, kernel + 1e3 * spike), dk.mmd2(x, y, kernel))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 10), kernels, kernels, seeds)
def test_kernels_add_and_scale(n, m, d, first, second, seed):
    z, x, w = draw(seed, (n, d), (m, d), (m,))
    one, two = KERNELS[first], KERNELS[second]
    together = dk.potential(z, x, w, 2 * one + two)
    apart = 2 * dk.potential(z, x, w, one) + dk.potential(z, x, w, two)
    torch.testing.assert_close(together, apart)
