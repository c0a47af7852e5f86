"""Metrics against closed forms, on clouds whose moments are exact, so no tolerance is guessed."""

import math

import pytest
import torch

from dmmd_kernels import data, metrics


def cloud(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """n points whose mean is 0 and whose covariance (with n - 1) is the identity, to rounding."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x -= x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T


def test_fid_of_scaled_normals_is_the_distance_of_means_and_deviations():
    """For commuting covariances: |a - b|² + Σ (s_i - r_i)²."""
    s, r, a = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 0.5, 3.0]), torch.ones(3)
    got = metrics.fid(cloud(50, 3) * s + a, cloud(70, 3, seed=1) * r)
    assert got == pytest.approx(3 + 1 + 2.25, rel=1e-12)


def test_fid_of_normals_that_do_not_commute():
    """In two dimensions tr √M = √(tr M + 2 √det M), M = Σx Σy."""
    a = torch.tensor([[1.0, 0.0], [2.0, 0.5]], dtype=torch.float64)
    b = torch.tensor([[1.0, -1.0], [0.0, 2.0]], dtype=torch.float64)
    product = (a @ a.T) @ (b @ b.T)
    root = math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))
    want = (a @ a.T).trace() + (b @ b.T).trace() - 2 * root
    got = metrics.fid(cloud(40, 2) @ a.T, cloud(30, 2, seed=1) @ b.T)
    assert got == pytest.approx(want.item(), rel=1e-12)


def test_fid_of_a_cloud_with_itself_is_zero_even_when_its_covariance_is_singular():
    x = torch.cat([cloud(9, 3), torch.zeros(9, 20)], 1) + 100
    assert abs(metrics.fid(x, x.flip(0))) < 1e-9


def test_kid_is_the_mean_over_distinct_pairs():
    x, y = cloud(5, 3), cloud(7, 3, seed=1) + 0.5

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    within_x = [k(x[i], x[j]) for i in range(5) for j in range(5) if i != j]
    within_y = [k(y[i], y[j]) for i in range(7) for j in range(7) if i != j]
    across = [k(p, q) for p in x for q in y]
    want = sum(within_x) / 20 + sum(within_y) / 42 - 2 * sum(across) / 35
    assert metrics.kid(x, y) == pytest.approx(want.item(), rel=1e-12)


def test_kid_of_whole_sets_is_kid():
    x, y = cloud(6, 2), cloud(6, 2, seed=1)
    mean, deviation = metrics.kid_of_subsets(x, y, subsets=4, size=6)
    assert mean == pytest.approx(metrics.kid(x, y), rel=1e-12)
    assert deviation < 1e-12


def test_kid_over_subsets_is_that_of_each(monkeypatch):
    """Two subsets at a time; another kernel than the usual one."""
    monkeypatch.setattr(metrics, "_SUBSET_BYTES", 2 * 16 * 10 * 4)
    x, y, how = cloud(40, 4), cloud(30, 4, seed=1), {"degree": 2, "gamma": 0.3, "coef": 0.5}
    got = metrics.kid_of_subsets(x, y, subsets=5, size=10, seed=7, **how)
    pick = lambda u, stream: u[data.batch_indices(len(u), 10, seed=7, step=0, stream=stream)]
    each = [metrics.kid(pick(x, 2 * i), pick(y, 2 * i + 1), **how) for i in range(5)]
    each = torch.tensor(each, dtype=torch.float64)
    assert got == pytest.approx((each.mean().item(), each.std().item()), rel=1e-10)


def test_energy_distance_on_a_line():
    """2 · 10/4 - 1 - 2"""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [4.0]])
    assert metrics.energy_distance(x, y) == pytest.approx(2, rel=1e-12)


def test_cmmd_of_two_opposite_directions():
    """2000 (1 - exp(-4/200)): unit vectors at distance 2."""
    x, y = torch.tensor([[3.0, 0.0]]), torch.tensor([[-5.0, 0.0]])
    assert metrics.cmmd(x, y) == pytest.approx(-2000 * math.expm1(-0.02), rel=1e-9)


def test_inception_score_counts_the_classes_that_occur():
    sure = 100 * torch.eye(5)[torch.tensor([0, 1, 2, 0, 1, 2])]
    assert metrics.inception_score(sure) == pytest.approx(3)
    assert metrics.inception_score(torch.zeros(4, 7)) == pytest.approx(1)
    assert metrics.class_shares(sure).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])


@pytest.mark.parametrize("rows", [1, 3, 256])
def test_a_copy_is_at_distance_zero_of_the_data(rows):
    x = cloud(20, 4).reshape(20, 1, 2, 2) + 1000
    shifted = torch.cat([x[3:5], x[:2] + 0.01])
    got = metrics.nearest_distance(shifted, x, rows)
    want = torch.tensor([0, 0, 0.02, 0.02], dtype=torch.float64)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


def test_no_samples_have_no_distances():
    assert metrics.nearest_distance(torch.zeros(0, 3), torch.zeros(5, 3)).shape == (0,)


def test_the_digit_classifier_learns_and_follows_its_seed():
    pytest.importorskip("sklearn")
    digits = data.digits()
    before = torch.get_rng_state()
    nets = [metrics.train_digit_classifier(digits, steps=60) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert nets[0].features(digits.held_out).shape == (len(digits.held_out), 32)
    assert nets[0].accuracy(digits.held_out, digits.held_out_labels) > 0.8
    assert torch.equal(nets[0](digits.held_out), nets[1](digits.held_out))


def test_precision_and_recall_are_those_of_all_distances():
    x, y = torch.randn(40, 3).double(), torch.randn(30, 3).double() + 0.7

    def share(z, cloud):
        radius = torch.cdist(cloud, cloud).sort(1).values[:, 2]
        return (torch.cdist(z, cloud) <= radius).any(1).double().mean().item()

    got = metrics.precision_recall(x, y, k=2, rows=7)
    assert 0 < got.precision < 1
    assert got == (share(x, y), share(y, x))


def test_precision_and_recall_at_their_ends():
    x = torch.randn(20, 4)
    assert metrics.precision_recall(x, x) == (1, 1)
    assert metrics.precision_recall(x, x + 100) == (0, 0)
    with pytest.raises(ValueError, match="more than k = 3 >= 1 points, got 20 and 3"):
        metrics.precision_recall(x, x[:3])


def test_a_mode_that_is_missing_costs_recall_alone():
    y = torch.cat([torch.randn(50, 2), torch.randn(50, 2) + 50])
    precision, recall = metrics.precision_recall(y[:50:2] + 1e-4, y)
    assert precision == 1
    assert 0.3 < recall <= 0.5


def test_nearest_names_the_datum():
    data = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 9.0]])
    distance, place = metrics.nearest(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), data, rows=1)
    assert (distance.tolist(), place.tolist()) == ([4.0, 0.0], [1, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: metrics.fid(x, x[:1]), "fid: y must hold at least 2 points, got 1"),
        (lambda x: metrics.kid(x[:1], x), "kid: x must hold at least 2 points, got 1"),
        (lambda x: metrics.energy_distance(x, x[:1]), "energy_distance: y must hold at least 2"),
        (lambda x: metrics.kid_of_subsets(x, x), "x must hold at least 1000 points, got 5; take a"),
        (lambda x: metrics.kid_of_subsets(x, x, subsets=0), "subsets must be at least 1"),
        (lambda x: metrics.kid_of_subsets(x, x, size=1), "size at least 2, got 100 and 1"),
        (lambda x: metrics.cmmd(x, x[:0]), "cmmd: y must hold at least 1 points, got 0"),
        (lambda x: metrics.inception_score(x[:0]), "logits must hold at least 1"),
        (lambda x: metrics.class_shares(x[:0]), "class_shares: logits must hold"),
        (lambda x: metrics.nearest_distance(x, x[:0]), "data must hold at least 1 points"),
    ],
)
def test_metrics_say_how_many_samples_they_need(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(5, 2))


def test_one_point_may_stand_against_many_where_the_estimate_is_biased():
    x = torch.randn(5, 2, dtype=torch.float64)
    want = 2 * torch.cdist(x[:1], x).mean() - torch.cdist(x, x).mean()
    got = metrics.energy_distance(x[:1], x, estimator="biased")
    assert got == pytest.approx(want.item(), rel=1e-12)
    assert math.isnan(metrics.kid_of_subsets(x, x, subsets=1, size=3)[1])


def test_biased_distances_are_never_negative():
    for seed in range(40):
        x = torch.randn(32, 16, generator=torch.Generator().manual_seed(seed))
        assert metrics.cmmd(x, x.flip(0)) >= 0
        assert metrics.energy_distance(x, x.flip(0), estimator="biased") >= 0
