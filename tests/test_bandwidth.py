"""mean_sigma and median_sigma are the rules their docstrings state."""

import subprocess
import sys

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.ops import bandwidth
from tests.cases import problem


def pooled_squares(x, y):
    u = torch.cat([x, y]).double()
    distances = (u[:, None] - u).square().sum(-1)
    return distances[~torch.eye(len(u), dtype=torch.bool, device=u.device)]


def test_mean_sigma_is_its_definition():
    x, y, _, _ = problem(20, 31, 3)
    expected = (pooled_squares(x, y).mean() / 2).sqrt()
    torch.testing.assert_close(dk.mean_sigma(x, y).double(), expected, rtol=1e-6, atol=0)
    far = dk.mean_sigma(x.double() + 1e6, y.double() + 1e6)
    torch.testing.assert_close(far, expected, rtol=1e-6, atol=0)


def test_median_sigma_is_its_definition():
    x, y, _, _ = problem(20, 31, 3)
    expected = (pooled_squares(x, y).median() / 2).sqrt()
    torch.testing.assert_close(dk.median_sigma(x, y).double(), expected, rtol=1e-6, atol=0)


def test_batches_and_thinning():
    x, y, _, _ = problem(40, 60, 2)
    stacked = dk.median_sigma(torch.stack([x, 2 * x]), torch.stack([y, 2 * y]))
    torch.testing.assert_close(stacked[1], 2 * dk.median_sigma(x, y))
    torch.testing.assert_close(dk.mean_sigma(2 * x, 2 * y), 2 * dk.mean_sigma(x, y))
    assert dk.median_sigma(x, y, max_points=50) == pytest.approx(
        dk.median_sigma(x, y).item(), rel=0.25
    )


def test_the_rules_are_detached_and_scale_free():
    x, y, _, _ = problem(10, 12, 3)
    x.requires_grad_()
    assert not dk.median_sigma(x, y).requires_grad
    assert not dk.mean_sigma(x, y).requires_grad
    value = dk.mmd2(x, y, dk.gaussian(dk.median_sigma(x, y)))
    scaled = dk.mmd2(7 * x, 7 * y, dk.gaussian(dk.median_sigma(7 * x, 7 * y)))
    torch.testing.assert_close(scaled, value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("pairs", ["pooled", "within", "across"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_median_of_many_pairs_is_selected_exactly(pairs, dtype, monkeypatch):
    """Of more pairs than are sorted at once; of an even number, the lower one."""
    monkeypatch.setattr(bandwidth, "_SAMPLED", 2**8)
    monkeypatch.setattr(bandwidth, "_TILE", 2**11)
    x, y = (t.to(dtype) for t in problem(60, 91, 3)[:2])
    distances = -dk.kernel_matrix(torch.cat([x, y]), torch.cat([x, y]), dk.energy())
    above = torch.ones(151, 151, dtype=torch.bool).triu(1)
    across = torch.zeros_like(above)
    across[:60, 60:] = True
    chosen = {"pooled": above, "within": above & ~across, "across": across}[pairs]
    want = distances[chosen].median() / 2**0.5
    assert dk.median_sigma(x, y, pairs=pairs, max_points=None) == want


@pytest.mark.parametrize("rank", [0, 1, 700, 1000, 1500, 2394])
def test_every_rank_is_found_and_its_pair(rank, monkeypatch):
    monkeypatch.setattr(bandwidth, "_SAMPLED", 2**7)
    x, y, _, _ = problem(20, 31, 3)
    x, y = x.double(), y.double()
    parts = [(x, None, 2), (y, None, 3), (x, y, 1)]
    groups = [bandwidth.PairGroup(*part) for part in parts]
    every = [torch.pdist(x).repeat(2), torch.pdist(y).repeat(3), torch.cdist(x, y).flatten()]
    got = bandwidth.select_distance(groups, rank)
    torch.testing.assert_close(got, torch.cat(every).sort().values[rank], rtol=1e-7, atol=1e-7)
    a, b = bandwidth.pair_at(groups, got)
    torch.testing.assert_close((a - b).norm(), got)


def test_a_bracket_that_misses_is_widened(monkeypatch):
    monkeypatch.setattr(bandwidth, "_bracket", lambda *_: (0.0, 1e-6))
    x, y, _, _ = problem(20, 31, 3)
    expected = (pooled_squares(x, y).median() / 2).sqrt()
    torch.testing.assert_close(dk.median_sigma(x, y).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_where_most_distances_are_0_the_width_tells_equal_points_alone(dtype, scale):
    """The limit of narrow kernels is the mean of [x_i = y_j], which plain code counts."""
    x, y = torch.zeros(50, 4, dtype=dtype), torch.zeros(40, 4, dtype=dtype)
    x[:10], y[:15] = (scale * torch.randn(n, 4).round().to(dtype) for n in (10, 15))
    same = lambda a, b: (a[:, None] == b).all(-1).double().mean()
    want = same(x, x) + same(y, y) - 2 * same(x, y)
    for pairs in ("pooled", "within", "across"):
        sigma = dk.median_sigma(x, y, pairs=pairs)
        got = dk.mmd2(x, y, dk.gaussian(sigma), estimator="biased")
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-7)
    assert (dk.sigma_range(x, y) > 0).all()
    kernels = [dk.gaussian(s) for s in dk.sigma_range(x, y).tolist()]
    assert 0 < dk.aggregated_test(x, y, kernels, permutations=19).p_value <= 1


def test_where_all_points_are_equal_every_width_is_1():
    x = torch.full((3, 5, 2), 0.1)
    assert (dk.median_sigma(x, x) == 1).all()
    assert (dk.mean_sigma(x, x) == 1).all()
    loss = dk.MMDLoss(lambda x, y: dk.gaussian(dk.median_sigma(x, y)))
    assert loss(x, x) <= 16 * torch.finfo(x.dtype).eps


@pytest.mark.parametrize("offset", [0, 1e3, 1e5, 1e6, 4e6])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_mean_sigma_is_as_accurate_as_plain_code_far_from_the_origin(offset, spread):
    """Of differences in float32; 4 times as wrong at most, and 4 ulps for the root."""
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        x, y = (spread * torch.randn(n, 3, generator=g) + offset for n in (150, 101))
        exact = (pooled_squares(x, y).mean() / 2).sqrt().item()
        u = torch.cat([x, y])
        squares = (u[:, None] - u).square().sum(-1)
        plain = (squares.sum() / (len(u) * (len(u) - 1)) / 2).sqrt().item()
        allowed = 4 * abs(plain - exact) + 4 * torch.finfo(u.dtype).eps * exact
        assert abs(dk.mean_sigma(x, y).item() - exact) <= allowed


def test_no_square_of_the_mean_width_overflows_or_vanishes():
    x, y, _, _ = problem(10, 12, 3)
    for scale in (2.0**90, 2.0**-90):
        torch.testing.assert_close(dk.mean_sigma(scale * x, scale * y), scale * dk.mean_sigma(x, y))


MEMORY = """
import resource, torch, dmmd_kernels as dk
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
def grown(n, d):
    x, y = torch.randn(2, n, d)
    before = peak()
    dk.median_sigma(x, y), dk.mean_sigma(x, y)
    return peak() - before - 3 * 2 * n * d * 4 // 2**20
grown(50, 2)
print(grown(1100, 2048))
"""


def test_memory_is_that_of_the_points_and_a_tile():
    """More pairs than are sorted at once; every coordinate of all that are drawn would be 4 GB."""
    grown = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    ).stdout
    assert int(grown) < 200


def test_a_range_of_widths_is_centred_on_the_median():
    x, y, _, _ = problem(20, 31, 3)
    got, median = dk.sigma_range(x, y, count=5), dk.median_sigma(x, y)
    torch.testing.assert_close(got, median * torch.tensor([0.25, 0.5, 1, 2, 4]))
    batch = dk.sigma_range(torch.stack([x, 2 * x]), torch.stack([y, 2 * y]), count=3)
    torch.testing.assert_close(batch[1], 2 * batch[0])


def test_unknown_pairs_are_named():
    with pytest.raises(ValueError, match="pairs must be 'pooled', 'within' or 'across', got 'x'"):
        dk.median_sigma(torch.zeros(3, 2), torch.zeros(3, 2), pairs="x")


def test_ranks_and_pairs_that_do_not_exist():
    group = bandwidth.PairGroup(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"rank must be in \[0, 3\), got 3"):
        bandwidth.select_distance([group], 3)
    with pytest.raises(ValueError, match="no pair has that distance"):
        bandwidth.pair_at([group], torch.ones(()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_points_that_are_not_finite_have_no_width(bad):
    x = torch.randn(2, 5, 3)
    x[1, 2, 0] = bad
    for pairs in ("pooled", "within", "across"):
        assert dk.median_sigma(x, x, pairs=pairs).isnan().tolist() == [False, True]
    assert dk.median_sigma(x, x, max_points=2).isnan().tolist() == [False, True]
    assert dk.mean_sigma(x, x).isnan().tolist() == [False, True]
    assert dk.median_sigma(torch.full((5, 3), bad), x[0]).isnan()


def test_equal_distances_are_kept_once(monkeypatch):
    monkeypatch.setattr(bandwidth, "_SAMPLED", 2**6)
    monkeypatch.setattr(bandwidth, "_TILE", 2**9)
    x = torch.arange(240).remainder(3)[:, None].float()
    groups = [bandwidth.PairGroup(x, None, 2), bandwidth.PairGroup(x, x)]
    every = torch.cat([torch.pdist(x).repeat(2), torch.cdist(x, x).flatten()]).sort().values
    for rank in (0, len(every) // 2, len(every) - 1):
        assert bandwidth.select_distance(groups, rank) == every[rank]
    below, kept = bandwidth._inside(groups, -1.0, 3.0)
    assert below == 0
    assert sum(len(values) for values, _ in kept) <= 4 * 2**6 + 6 + 2**9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: dk.median_sigma(x, x, max_points=1), "max_points must be None or at least 2"),
        (lambda x: dk.median_sigma(x, x, max_points=0), "max_points must be None or at least 2"),
        (lambda x: dk.sigma_range(x, x, count=0), "count must be at least 1, got 0"),
        (lambda x: dk.median_sigma(x[None][:0], x), "the batch must not be empty, got"),
        (lambda x: dk.mean_sigma(x.expand(2, 3, 2), x.expand(3, 3, 2)), "must broadcast"),
    ],
)
def test_errors_say_what_must_hold(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(3, 2))


def test_too_few_points():
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="at least two points together, got 1"):
        dk.median_sigma(x, x[:0])
