"""Two-sample tests: the statistics, the level under the null, the power, and the memory."""

import math

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.ops import pairwise, pooled, relabellings, two_sample
from tests.cases import KERNELS, each_kernel, problem


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n: int, epsilon: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A 3 × 3 grid of normals; in y their covariance is turned, with eigenvalues 1 and epsilon."""
    g = seeded(seed)
    centres = 10.0 * torch.stack([torch.randint(3, (2, n), generator=g) for _ in range(2)], -1)
    x, y = torch.randn(2, n, 2, generator=g)
    stretched = y * torch.tensor([1.0, epsilon**0.5])
    turn = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]) / math.sqrt(2)
    return x + centres[0], stretched @ turn + centres[1]


@each_kernel
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_every_relabelling_has_its_own_mmd2(kernel, estimator, monkeypatch):
    """In strips and blocks smaller than the problem, so that their seams are seen."""
    monkeypatch.setattr(pooled, "_STRIP", 13)
    monkeypatch.setattr(relabellings, "_NUMBERS", 1)
    x, y, _, _ = problem(20, 31, 3, dtype=torch.float64)
    result = dk.permutation_test(
        x, y, kernel, permutations=30, estimator=estimator, generator=seeded(0)
    )
    u, g, want = torch.cat([x, y]), seeded(0), [dk.mmd2(x, y, kernel, estimator=estimator)]
    for order in [torch.randperm(51, generator=g) for _ in range(31)][1:]:
        split = torch.zeros(51, dtype=torch.bool)
        split[order[:20]] = True
        want.append(dk.mmd2(u[split], u[~split], kernel, estimator=estimator))
    got = torch.cat([result.statistic[None], result.null])
    torch.testing.assert_close(got, torch.stack(want), rtol=1e-8, atol=1e-11)
    assert result.p_value == (1 + (result.null >= result.statistic).sum().item()) / 31


def test_single_precision_keeps_the_digits_of_small_values():
    """The statistic is of order 1/n, sums of the kernel are of order 1."""
    x, y, _, _ = problem(400, 300, 5)
    pairs = [
        dk.permutation_test(a, b, dk.gaussian(2.0), permutations=50, generator=seeded(0)).null
        for a, b in ((x, y), (x.double(), y.double()))
    ]
    torch.testing.assert_close(
        pairs[0].double(), pairs[1], rtol=0, atol=1e-4 * pairs[1].std().item()
    )


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_samples_of_very_different_sizes_keep_their_digits(estimator):
    """1/n must not be lost beside 1/m: E k is at most 1, and four of them may lose 4 eps each."""
    for seed in range(4):
        u = torch.randn(3003, 2, generator=seeded(seed))
        split, kernel = (torch.arange(3003) < 3000)[None], dk.gaussian(1.0)
        want = dk.mmd2(u[:3000].double(), u[3000:].double(), kernel, estimator=estimator)
        got = two_sample.mmd2_of_splits(u, kernel, [split], estimator=estimator)
        assert abs(got.item() - want.item()) <= 16 * torch.finfo(u.dtype).eps


def test_results_have_no_gradients():
    x, y, _, _ = problem(8, 8, 3)
    kernel = dk.gaussian(torch.tensor(1.0, requires_grad=True))
    for result in (
        dk.permutation_test(x, y, kernel, permutations=5),
        dk.wild_bootstrap_test(x, y, kernel, draws=5),
        dk.aggregated_test(x, y, [kernel], permutations=5),
    ):
        assert not any(t.requires_grad for t in result if isinstance(t, torch.Tensor))


def test_every_evaluation_is_by_the_named_backend(monkeypatch):
    named = []

    def evaluation(x, y, kernel, *, backend="auto"):
        named.append(backend)
        return dk.kernel_matrix(x, y, kernel, backend=backend)

    for module in (two_sample, pooled, pairwise):
        monkeypatch.setattr(module, "kernel_matrix", evaluation)
    x, y, _, _ = problem(8, 8, 3)
    how = {"backend": "reference"}
    dk.permutation_test(x, y, dk.gaussian(1.0), permutations=5, **how)
    dk.wild_bootstrap_test(x, y, dk.gaussian(1.0), draws=5, **how)
    dk.power_criterion(x, y, dk.gaussian(1.0), **how)
    assert named == ["reference"] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relabellings_that_mean_the_same_count_as_ties(dtype):
    """Two points against two: three ways to split them, each drawn with either name."""
    x, y = torch.randn(2, 2, 3, dtype=dtype)
    for a, b in ((x, y), (x.flip(0), y), (y, x)):
        p_value = dk.permutation_test(a, b, dk.gaussian(1.0), permutations=300).p_value
        assert min(abs(p_value - third / 3) for third in (1, 2, 3)) < 0.1


def test_one_point_may_stand_against_many():
    """Biased, its p-value is its rank among all points by their MMD² to the others."""
    u = torch.randn(12, 2, dtype=torch.float64)
    k = dk.gaussian(1.0)
    rest = lambda i: u[torch.arange(12) != i]
    values = torch.stack([dk.mmd2(u[[i]], rest(i), k, estimator="biased") for i in range(12)])
    how = {"estimator": "biased", "permutations": 999, "generator": 0}
    for i in range(12):
        want = (values >= values[i]).double().mean().item()
        got = dk.permutation_test(u[[i]], rest(i), k, **how).p_value
        assert abs(got - want) < 4 * (want * (1 - want) / 1000) ** 0.5 + 0.001


def test_a_number_seeds_a_generator():
    x, y, _, _ = problem(8, 8, 3)
    for test in (
        lambda g: dk.permutation_test(x, y, dk.gaussian(1.0), permutations=20, generator=g),
        lambda g: dk.wild_bootstrap_test(x, y, dk.gaussian(1.0), draws=20, generator=g),
    ):
        assert torch.equal(test(7).null, test(seeded(7)).null)
        with pytest.raises(TypeError, match="a whole number as its seed, or None, got str"):
            test("7")


def test_a_sum_that_overflows_in_single_precision_is_taken_in_double():
    x, y = 1e13 * torch.randn(2, 20, 2, generator=seeded(0))
    k = dk.polynomial(3, 1.0, 0.0)
    found = [
        dk.permutation_test(a, b, k, permutations=49, generator=0)
        for a, b in ((x, y), (x.double(), y.double()))
    ]
    assert found[0].p_value == found[1].p_value


def test_points_that_are_not_a_number_have_no_p_value():
    x, y, _, _ = problem(8, 9, 3)
    x[0, 0] = float("nan")
    kernel = dk.gaussian(1.0)
    assert math.isnan(dk.permutation_test(x, y, kernel, permutations=20).p_value)
    assert math.isnan(dk.aggregated_test(x, y, [kernel, kernel], permutations=20).p_value)


def test_half_precision_is_computed_in_single():
    x, y, _, _ = problem(30, 40, 3, dtype=torch.bfloat16)
    half, single = (
        dk.permutation_test(a, b, dk.gaussian(1.0), permutations=20, generator=seeded(0))
        for a, b in ((x, y), (x.float(), y.float()))
    )
    assert half.p_value == single.p_value


def test_the_wild_bootstrap_exchanges_partners():
    x, y, _, _ = problem(15, 15, 3, dtype=torch.float64)
    k = KERNELS["gaussians"]
    got = dk.wild_bootstrap_test(x, y, k, draws=20, generator=seeded(0))
    flips = torch.randint(2, (15, 21), generator=seeded(0)).double() * 2 - 1
    matrix = lambda a, b: dk.kernel_matrix(a, b, k)
    h = matrix(x, x) + matrix(y, y) - matrix(x, y) - matrix(y, x)
    h = h - torch.diag(h.diag())
    want = ((h @ flips) * flips).sum(0) / (15 * 14)
    torch.testing.assert_close(got.null, want[1:])
    torch.testing.assert_close(got.statistic, h.sum() / (15 * 14))


def p_values(test, trials: int = 200) -> torch.Tensor:
    """Of samples of one distribution."""
    found = []
    for seed in range(trials):
        g = seeded(seed)
        x, y = torch.randn(2, 30, 2, generator=g)
        found.append(test(x, y, g))
    return torch.tensor(found).sort().values


TESTS = {
    "permutation": lambda x, y, g: (
        dk.permutation_test(
            x, y[:20], dk.gaussian(dk.median_sigma(x, y[:20]).item()), permutations=99, generator=g
        ).p_value
    ),
    "wild bootstrap": lambda x, y, g: (
        dk.wild_bootstrap_test(x, y, dk.gaussian(1.0), draws=99, generator=g).p_value
    ),
    "aggregated": lambda x, y, g: (
        dk.aggregated_test(
            x,
            y[:20],
            [dk.gaussian(s) for s in dk.sigma_range(x, y[:20], count=3).tolist()],
            permutations=99,
            generator=g,
        ).p_value
    ),
}


@pytest.mark.parametrize("name", TESTS)
def test_p_values_are_uniform_under_the_null(name):
    """Kolmogorov's distance of 200 from uniform: 1.95/√200 is exceeded once in a thousand."""
    found = p_values(TESTS[name])
    steps = torch.arange(1, 201) / 200
    assert (found - steps).abs().max() < 1.95 / math.sqrt(200) + 0.01
    assert found.min() >= 0.01


def test_the_power_on_blobs_needs_a_width_of_their_scale():
    """The median rule sees the grid and not the blobs; aggregation and selection find the width."""
    rejected = dict.fromkeys(["median", "aggregated", "selected"], 0)
    for seed in range(10):
        x, y = blobs(200, 6.0, seed)
        widths = dk.sigma_range(x, y, count=5)
        kernels = [dk.gaussian(s) for s in (widths / 8).tolist()]
        half, how = x[:100], {"permutations": 199, "generator": seeded(seed)}
        chosen = dk.select_kernel(half, y[:100], kernels)
        tests = {
            "median": dk.permutation_test(x, y, dk.gaussian(widths[2].item()), **how),
            "aggregated": dk.aggregated_test(x, y, kernels, **how),
            "selected": dk.permutation_test(x[100:], y[100:], chosen, **how),
        }
        for name, result in tests.items():
            rejected[name] += result.p_value <= 0.05
    assert rejected["median"] <= 3
    assert rejected["aggregated"] >= 8
    assert rejected["selected"] >= 6


def test_weights_and_p_values_of_the_aggregated_test():
    x, y, _, _ = problem(25, 30, 2)
    kernels = [dk.gaussian(s) for s in (0.1, 1.0, 10.0)]
    result = dk.aggregated_test(x, y, kernels, generator=seeded(0), permutations=99)
    alone = [dk.mmd2(x, y, k) for k in kernels]
    torch.testing.assert_close(result.statistics, torch.stack(alone), rtol=1e-4, atol=1e-6)
    assert result.p_value >= result.p_values.min()
    one = dk.aggregated_test(x, y, kernels[:1], generator=seeded(0), permutations=99)
    assert one.p_value == result.p_values[0]
    tilted = dk.aggregated_test(
        x, y, kernels, weights=[1, 1e-9, 1e-9], generator=seeded(0), permutations=99
    )
    assert tilted.p_value == one.p_value


def test_the_variance_is_that_of_repeated_samples():
    values, estimates = [], []
    for seed in range(300):
        x, y = (
            torch.randn(60, 2, generator=seeded(seed)),
            torch.randn(90, 2, generator=seeded(-seed - 1)),
        )
        values.append(dk.mmd2(x, y + 1, dk.gaussian(1.0)))
        estimates.append(dk.mmd2_variance(x, y + 1, dk.gaussian(1.0)))
    ratio = torch.stack(estimates).mean() / torch.stack(values).var()
    assert 0.8 < ratio < 1.25


def test_the_criterion_is_its_definition_and_differentiable_twice():
    x, y, _, _ = problem(7, 6, 2, dtype=torch.float64)
    sigma = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def criterion(x, sigma):
        return dk.power_criterion(x, y, dk.gaussian(sigma))

    k_xx, k_xy, k_yy = (
        dk.kernel_matrix(a, b, dk.gaussian(1.3)) for a, b in ((x, x), (x, y), (y, y))
    )
    g_x = (k_xx.sum(1) - 1) / 6 - k_xy.mean(1)
    g_y = (k_yy.sum(1) - 1) / 5 - k_xy.mean(0)
    variance = 4 * (g_x.var(correction=0) / 7 + g_y.var(correction=0) / 6)
    want = dk.mmd2(x, y, dk.gaussian(1.3)) / (variance + 1e-8).sqrt()
    torch.testing.assert_close(criterion(x, sigma).detach(), want)
    assert torch.autograd.gradcheck(criterion, (x.requires_grad_(), sigma))
    assert torch.autograd.gradgradcheck(criterion, (x, sigma))


def test_batches_of_criteria_are_each_alone():
    x, y, _, _ = problem(7, 6, 2, dtype=torch.float64)
    xs, ys = torch.stack([x, x + 1]), torch.stack([y, 2 * y])
    got = dk.power_criterion(xs, ys, dk.gaussian(1.0))
    want = [dk.power_criterion(a, b, dk.gaussian(1.0)) for a, b in zip(xs, ys, strict=True)]
    torch.testing.assert_close(got, torch.stack(want))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, k: dk.permutation_test(x[:1], x, k),
            r"2, got \(1, 2\); estimator='biased' takes",
        ),
        (
            lambda x, k: dk.aggregated_test(x[:1], x, [k]),
            r"x must be \(n, d\) with n of at least 2",
        ),
        (lambda x, k: dk.power_criterion(x, x[:1], k), "power_criterion: x and y must hold two"),
        (lambda x, k: dk.select_kernel(x, x[:1], [k]), "select_kernel: x and y must hold two"),
        (lambda x, k: dk.permutation_test(x, x, k, permutations=0), "at least one relabelling"),
        (lambda x, k: dk.wild_bootstrap_test(x, x[:4], k), "of one size, got 5 and 4"),
        (lambda x, k: dk.aggregated_test(x, x, []), "one per kernel"),
        (lambda x, k: dk.aggregated_test(x, x, [k], weights=[0.0]), "weights must be positive"),
        (
            lambda x, k: dk.aggregated_test(x, x, [k, k], weights=[math.nan, 1.0]),
            "positive, finite",
        ),
        (lambda x, k: dk.permutation_test(x, x, k, estimator="foo"), "test: estimator must be"),
        (lambda x, k: two_sample.mmd2_of_splits(x, k, [], estimator="foo"), "got 'foo'"),
        (lambda x, k: two_sample.mmd2_of_splits(x, k, [x.T[:1] > 9]), "at least 2 .* got 0 and 5"),
        (lambda x, k: dk.mmd2_variance(x, x[:1], k), "two points each, got 5 and 1"),
        (lambda x, k: dk.select_kernel(x, x, []), "kernels must hold at least one, got none"),
        (lambda x, k: dk.select_kernel(x, x * math.nan, [k]), r"kernels\[0\] must be a number"),
    ],
)
def test_errors_say_what_must_hold(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(5, 2), dk.gaussian(1.0))
