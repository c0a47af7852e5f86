"""Ties in the two-sample tests: p-values against enumeration in exact numbers, and the level.

Where all points that differ are at one distance, as one-hot rows are, every radial kernel gives the
same order of MMD²: that of Σ_c of the counts a_c in x and b_c in y of each category, which are
fractions. Nothing there is rounded.
"""

from fractions import Fraction
from itertools import combinations
from math import comb

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.ops import two_sample
from dmmd_kernels.ops.pooled import Pool
from dmmd_kernels.ops.relabellings import Splits

KERNELS = {
    "gaussian": dk.gaussian(1.0),
    "wide": dk.gaussian(3000.0),
    "laplace": dk.laplace(0.5),
    "energy": dk.energy(),
    "sum": dk.gaussian(1.0) + 0.5 * dk.energy(),
}
CATEGORIES = {
    "constant": [0] * 9,
    "rare": [0, 0, 0, 1, 0, 0, 0, 0, 0],
    "some": [0, 1, 0, 2, 0, 0, 1, 2, 0],
    "all different": list(range(9)),
    "two halves": [0, 0, 0, 0, 1, 1, 1, 1],
}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
ESTIMATORS = pytest.mark.parametrize("estimator", ["unbiased", "biased"])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact_order(rows, in_x, estimator) -> Fraction:
    """What MMD² of one-hot rows grows with; between two categories the kernel counts as 0."""
    n, m = len(in_x), len(rows) - len(in_x)
    total = Fraction(0)
    for category in set(rows):
        a = sum(rows[i] == category for i in in_x)
        b = rows.count(category) - a
        if estimator == "biased":
            total += (Fraction(a, n) - Fraction(b, m)) ** 2
        else:
            within = Fraction(a * (a - 1), n * (n - 1)) + Fraction(b * (b - 1), m * (m - 1))
            total += within - Fraction(2 * a * b, n * m)
    return total


@DTYPES
@ESTIMATORS
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("rows", CATEGORIES.values(), ids=CATEGORIES)
def test_the_share_of_all_splits_at_least_as_large_is_exact(
    rows, kernel, estimator, dtype, monkeypatch
):
    """Over every split, by the float32 sums and the float64 ones near the observed value."""
    monkeypatch.setattr(two_sample, "_FEW", 0)
    points = torch.eye(len(rows), dtype=dtype)[rows]
    splits = list(combinations(range(len(rows)), 4))
    values = [exact_order(rows, in_x, estimator) for in_x in splits]
    labels = torch.zeros(len(splits), len(rows), dtype=torch.bool)
    labels.scatter_(1, torch.tensor(splits), True)
    pool = Pool([(points, kernel)], "auto")
    statistic = Splits(pool, lambda numbers: labels[list(numbers)], 4, estimator)
    got = two_sample._values(statistic, pool, len(splits))
    for observed in range(0, len(splits), 25):
        want = [value >= values[observed] for value in values]
        assert got.compared_with(observed).at_least.tolist() == want


@DTYPES
@pytest.mark.parametrize(("n", "m"), [(10, 12), (33, 17), (200, 300), (2, 2)])
def test_constant_data_has_the_p_value_1(n, m, dtype):
    x, y = torch.full((n, 2), 0.1, dtype=dtype), torch.full((m, 2), 0.1, dtype=dtype)
    for kernel in (*KERNELS.values(), dk.linear(), dk.polynomial()):
        for estimator in ("unbiased", "biased"):
            result = dk.permutation_test(x, y, kernel, permutations=9, estimator=estimator)
            assert result.p_value == 1
            assert (result.null == result.statistic).all()
        assert dk.aggregated_test(x, y, [kernel, dk.gaussian(2.0)], permutations=9).p_value == 1
        assert dk.wild_bootstrap_test(x, x, kernel, draws=9).p_value == 1


def poisson(g, n):
    return torch.poisson(torch.ones(n, 1), generator=g)


NULLS = {
    "poisson": poisson,
    "rounded": lambda g, n: torch.randn(n, 2, generator=g).round(),
    "one-hot": lambda g, n: torch.eye(5)[torch.randint(5, (n,), generator=g)],
    "zero-inflated": lambda g, n: (
        torch.randn(n, 3, generator=g) * (torch.rand(n, 1, generator=g) < 0.2)
    ),
    "rare": lambda g, n: (torch.rand(n, 1, generator=g) < 0.02).float(),
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("null", NULLS.values(), ids=NULLS)
def test_p_values_are_the_same_in_both_dtypes(null, kernel, monkeypatch):
    """The float32 points are float64 points too, so the sums in float64 tell the order."""
    monkeypatch.setattr(two_sample, "_FEW", 0)
    for seed in range(3):
        g = seeded(seed)
        x, y = null(g, 30), null(g, 40)
        found = [
            (
                dk.permutation_test(a, b, kernel, permutations=99, generator=seed).p_value,
                dk.wild_bootstrap_test(a, b[:30], kernel, draws=99, generator=seed).p_value,
                dk.aggregated_test(a, b, [kernel], permutations=99, generator=seed).p_value,
            )
            for a, b in ((x, y), (x.double(), y.double()))
        ]
        assert found[0] == found[1]


@DTYPES
def test_a_rare_feature_has_the_p_value_of_its_count(dtype):
    """6 of 120 rows are 1: how many of those x holds is hypergeometric, and tells MMD²."""
    column = [1] * 6 + [0] * 114
    order = [exact_order(column, [*range(c), *range(70 + c, 120)], "unbiased") for c in range(7)]
    ways = [comb(6, c) * comb(114, 50 - c) for c in range(7)]
    want = sum(w for w, value in zip(ways, order, strict=True) if value >= order[4]) / comb(120, 50)
    rows = torch.tensor(column, dtype=dtype)[:, None]
    x, y = torch.cat([rows[:4], rows[74:]]), rows[4:74]
    got = dk.permutation_test(x, y, dk.gaussian(1.0), permutations=3999, generator=0).p_value
    assert abs(got - want) < 4 * (want * (1 - want) / 4000) ** 0.5


@DTYPES
def test_flips_of_partners_are_compared_exactly(dtype):
    """h_ij of one-hot rows is a whole number times 1 - k, and so are all sums of them."""
    g = seeded(3)
    a, b = torch.randint(3, (2, 12), generator=g)
    x, y = torch.eye(3, dtype=dtype)[a], torch.eye(3, dtype=dtype)[b]
    got = dk.wild_bootstrap_test(x, y, dk.laplace(1.0), draws=199, generator=seeded(0))
    flips = torch.randint(2, (12, 200), generator=seeded(0)) * 2 - 1
    flips[:, 0] = 1
    same = lambda p, q: (p[:, None] == q).long()
    h = (same(a, a) + same(b, b) - same(a, b) - same(b, a)).fill_diagonal_(0)
    values = ((h @ flips) * flips).sum(0)
    assert got.p_value == (values >= values[0]).double().mean().item()
    assert ((got.null >= got.statistic) == (values[1:] >= values[0])).all()


def test_many_kernels_that_agree_are_as_one():
    for seed in range(10):
        x, y = (NULLS["one-hot"](seeded(2 * seed + i), 25) for i in range(2))
        one = dk.permutation_test(
            x, y, KERNELS["wide"], permutations=199, generator=seeded_as_aggregated(seed)
        )
        some = dk.aggregated_test(
            x, y, list(KERNELS.values()), permutations=199, generator=seeded(seed)
        )
        assert some.p_value == one.p_value
        assert (some.p_values == one.p_value).all()


def seeded_as_aggregated(seed: int) -> torch.Generator:
    """The aggregated test draws one seed and takes all relabellings from it."""
    return seeded(int(torch.randint(2**63 - 1, (), generator=seeded(seed))))


@DTYPES
def test_a_wide_kernel_sees_a_shift_and_nothing_else(dtype):
    """exp(-q/2σ²) at σ = 3000 is 1 - 10⁻⁷ q, of which float32 holds no digit."""
    x, y = torch.randn(2, 60, 2, generator=seeded(0), dtype=torch.float64).to(dtype)
    how = {"permutations": 199, "generator": 1}
    wide, mean = (dk.permutation_test(x, y, k, **how) for k in (KERNELS["wide"], dk.linear()))
    assert wide.p_value == pytest.approx(mean.p_value, abs=0.01)
    assert dk.permutation_test(x, y + 1, KERNELS["wide"], **how).p_value == 1 / 200


def test_a_value_follows_from_the_points_alone():
    """Bits do not change when the rows of a sample change places."""
    x, y = torch.randn(2, 40, 12, generator=seeded(0))
    x = torch.cat([x, x[:15]])
    value = dk.permutation_test(x, y, dk.gaussian(3.0), permutations=1).statistic
    other = dk.permutation_test(x.flip(0), y.roll(3, 0), dk.gaussian(3.0), permutations=1)
    assert other.statistic == value


def test_the_null_is_beside_the_statistic_as_the_p_value_says():
    for seed in range(20):
        x, y = (NULLS["poisson"](seeded(2 * seed + i), 25) for i in range(2))
        result = dk.permutation_test(x, y, dk.energy(), permutations=99)
        assert result.p_value == (1 + (result.null >= result.statistic).sum().item()) / 100


def test_kernels_that_are_equally_good_are_taken_in_order():
    """A kernel and its multiples have one criterion; of constant data, all have."""
    x, y = poisson(seeded(0), 30), poisson(seeded(1), 30) + 1
    kernels = [0.3 * dk.gaussian(1.0) + 0.7 * dk.gaussian(1.0), dk.gaussian(1.0)]
    for order in (kernels, kernels[::-1]):
        for a, b in ((x, y), (x.double(), y.double()), (x * 0, y * 0)):
            assert dk.select_kernel(a, b, order) is order[0]


@pytest.mark.parametrize("null", NULLS.values(), ids=NULLS)
def test_the_level_holds_on_ties(null):
    """At most 5 % and three standard deviations; benchmarks/levels.py counts 2000 of each."""
    rejected = torch.zeros(2)
    for seed in range(500):
        g = seeded(seed)
        x, y, kernel = null(g, 30), null(g, 40), dk.gaussian(1.0)
        permuted = dk.permutation_test(x, y, kernel, permutations=99, generator=g).p_value
        flipped = dk.wild_bootstrap_test(x, y[:30], kernel, draws=99, generator=g).p_value
        rejected += torch.tensor([permuted, flipped]) <= 0.05
    assert (rejected / 500 < 0.05 + 3 * (0.05 * 0.95 / 500) ** 0.5).all()
