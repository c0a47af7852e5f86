"""DK-for-TST: gradients in everything, the lazy matrix, permutations with and without it."""

import numpy as np
import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.compat import dk_tst
from dmmd_kernels.compat.featured import FeaturedMatrix
from tests.compat import plain
from tests.compat.test_families import waves


def clouds() -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.cat([waves(9, 3, 1.0, 0.0), waves(9, 3, 1.7, 0.5)])
    return features, torch.cat([waves(9, 2, 0.7, 0.0), waves(9, 2, 0.9, 0.4)])


def test_gradients_reach_features_points_widths_and_epsilon():
    numbers = [torch.tensor(v, dtype=torch.float64) for v in (2.0, 0.7, 0.1)]
    tensors = [t.requires_grad_() for t in (*clouds(), *numbers)]
    features, points, sigma, sigma0, epsilon = tensors
    mmd2, variance, _ = dk_tst.MMDu(features, 9, points, sigma, sigma0, epsilon)
    matrix = plain.deep(features, points, sigma, sigma0, epsilon)
    ours = mmd2 / (variance + 1e-8).sqrt()
    theirs = plain.one_sample_u(matrix) / (plain.h_variance(matrix) + 1e-8).sqrt()
    torch.testing.assert_close(ours, theirs)
    for got, want in zip(
        torch.autograd.grad(ours, tensors), torch.autograd.grad(theirs, tensors), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-10)


def test_the_matrix_is_made_only_when_looked_at():
    features, points = clouds()
    matrix = dk_tst.MMDu(features, 9, points, 2.0, 0.7, 0.1)[2]
    want = plain.deep(features, points, 2.0, 0.7, 0.1)
    assert matrix.shape == (18, 18)
    assert len(matrix) == 18
    assert matrix._dense is None
    torch.testing.assert_close(matrix[2:4], want[2:4])
    assert matrix._dense is not None
    torch.testing.assert_close(torch.as_tensor(matrix), want)
    torch.testing.assert_close(torch.sum(matrix, 0), want.sum(0))
    np.testing.assert_allclose(np.asarray(matrix), want.numpy())
    assert matrix.trace().item() == pytest.approx(18)


def test_permutations_are_the_same_with_and_without_the_matrix():
    features, points = clouds()
    matrix = dk_tst.MMDu(features, 9, points, 2.0, 0.7, 0.1)[2]
    results = []
    for given in (matrix, matrix.dense()):
        torch.manual_seed(0)
        results.append(dk_tst.mmd2_permutations(given, 9, 40))
    (estimate, p_value, rest), (other, other_p, other_rest) = results
    assert estimate == pytest.approx(other, rel=1e-10)
    assert estimate == pytest.approx(plain.one_sample_u(matrix.dense()).item(), rel=1e-10)
    assert p_value == other_p
    torch.testing.assert_close(rest, other_rest)


def test_a_permutation_is_the_statistic_of_the_permuted_points():
    features, points = clouds()
    matrix = dk_tst.MMDu(features, 9, points, 2.0, 0.7, 0.1)[2]
    torch.manual_seed(0)
    rest = dk_tst.mmd2_permutations(matrix, 9, 1)[2]
    torch.manual_seed(0)
    chosen = torch.randperm(18)[:9].sort().values
    others = torch.tensor([i for i in range(18) if i not in chosen])
    order = torch.cat([chosen, others])
    want = plain.one_sample_u(matrix.dense()[order][:, order])
    torch.testing.assert_close(rest[0], want)


def test_equal_permutations_have_equal_values():
    """Of constant data, all are; of one-hot rows, those of equal counts and equal pairs."""
    for points in (torch.full((18, 2), 0.1), torch.eye(3)[torch.arange(18) % 3]):
        matrix = dk_tst.MMDu(points, 9, points, 2.0, 0.7, 0.1)[2]
        whole = torch.cdist(points, points).square() / 2
        for given in (matrix, matrix.dense()):
            torch.manual_seed(0)
            estimate, _, rest = dk_tst.mmd2_permutations(given, 9, 200)
            torch.manual_seed(0)
            # MMD² is 2 (1 - k)/(n(n - 1)) times a whole number of unequal pairs.
            orders = [torch.randperm(18) for _ in range(200)]
            counted = torch.stack([unequal_pairs(whole, order) for order in orders])
            observed = unequal_pairs(whole, torch.arange(18))
            assert torch.equal(rest > estimate, counted > observed)
            assert torch.equal(rest == estimate, counted == observed)


def unequal_pairs(apart: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Σ over i ≠ j of [x_i ≠ y_j] - ([x_i ≠ x_j] + [y_i ≠ y_j])/2, both groups ascending."""
    x, y = order[:9].sort().values, torch.tensor(sorted(set(range(18)) - set(order[:9].tolist())))
    across, own = apart[x][:, y].round(), apart[x][:, x].round() + apart[y][:, y].round()
    return across.sum() - across.trace() - own.sum() / 2


def test_features_of_equal_points_are_equal():
    """A network may round equal rows of a batch otherwise; that makes no two values differ."""
    points = torch.arange(3.0)[torch.arange(20) % 3][:, None]
    features = points.sin() + 1e-6 * torch.randn(20, 1)
    splits = torch.zeros(2, 20, dtype=torch.bool)
    splits[0, :10], splits[1, 3:9] = True, True
    splits[1, [12, 13, 14, 18]] = True  # as many of each point as in the first
    matrix = FeaturedMatrix((features, dk.gaussian(1.0)), points=points)
    first, second = matrix.mmd2_of_splits(splits, 0)
    assert first == second


def test_the_test_rejects_where_it_should():
    features, points = clouds()
    how = (2.0, 0.7, 0.05, "cpu", torch.float64)
    apart = features + torch.cat([torch.zeros(9, 1), torch.full((9, 1), 5.0)])
    assert dk_tst.TST_MMD_u(apart, 9, 9, points, *how, is_smooth=False)[:2] == (1, "NaN")
    same = torch.cat([features[:9], features[:9]])
    assert dk_tst.TST_MMD_u(same, 9, 9, points, *how, is_smooth=False)[0] == 0


def test_samples_of_two_sizes_are_refused():
    features, points = clouds()
    with pytest.raises(ValueError, match="of one size, got 8 and 10"):
        dk_tst.MMDu(features, 8, points, 2.0)
    with pytest.raises(ValueError, match="K must have 2 n_X = 10 rows, got 18"):
        dk_tst.mmd2_permutations(torch.eye(18), 5)


def test_matrices_are_converted():
    made = dk_tst.MatConvert(np.ones((2, 3)), "cpu", torch.float32)
    assert made.dtype == torch.float32
    assert made.shape == (2, 3)


def test_a_matrix_of_features_computes_as_a_tensor():
    a, b = torch.randn(5, 2), torch.randn(5, 3)
    matrix = FeaturedMatrix((a, dk.gaussian(1.0)), (b, dk.gaussian(2.0)))
    dense = matrix.dense()
    for operation in (
        lambda k: 2 * k + k * dense - k / 2,
        lambda k: -k + 1 - (1 - k) + (1 + k),
        lambda k: (k @ dense) + (dense @ k) + abs(k) + k**2,
        lambda k: dense + k - 1 / k + k + k,
        lambda k: (k > 0.5) & (k <= dense),
        lambda k: k[0],
    ):
        assert torch.equal(operation(matrix), operation(dense))
