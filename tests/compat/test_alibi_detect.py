"""alibi-detect: kernels against plain code, the detector against the package where it is there."""

import numpy as np
import pytest
import torch

from dmmd_kernels import compat
from dmmd_kernels.compat import alibi_detect as shim
from tests.compat import plain


def clouds(n: int = 9, m: int = 7, d: int = 3):
    return torch.randn(n, d).double(), torch.randn(m, d).double() + 0.5


def mean_of_gaussians(sigmas):
    return lambda a, b: plain.gaussians(sigmas)(a, b) / len(sigmas)


def test_several_widths_are_averaged():
    x, y = clouds()
    kernel = shim.GaussianRBF(torch.tensor([0.5, 2.0]).double())
    torch.testing.assert_close(kernel(x, y), mean_of_gaussians([0.5, 2.0])(x, y))
    want = plain.unbiased(mean_of_gaussians([0.5, 2.0]), x, y)
    torch.testing.assert_close(shim.mmd2(x, y, kernel), want)


@pytest.mark.parametrize(("n", "m"), [(8, 8), (9, 7), (3, 3), (1, 5)])
def test_the_median_rule_counts_pairs_as_the_original(n, m):
    """Of x with itself over i ≠ j; else over all pairs, one below the middle of an odd number."""
    x, y = clouds(n, m)
    squares = plain.squares(x, y).flatten().sort().values
    want = (squares[n * m // 2 - 1] / 2).sqrt()
    torch.testing.assert_close(shim.sigma_median(x, y), want.reshape(1))
    if n > 1:
        apart = plain.squares(x, x)[~torch.eye(n, dtype=torch.bool)].median()
        torch.testing.assert_close(shim.sigma_median(x, x.clone()), (apart / 2).sqrt().reshape(1))


def test_a_median_of_0_gives_a_narrow_width():
    x = torch.zeros(9, 2)
    x[:2] = torch.eye(2)
    for y in (x, torch.zeros(7, 2)):
        matrix = shim.GaussianRBF()(x, y)
        assert torch.equal(matrix, (x[:, None] == y).all(-1).float())
    with pytest.raises(ValueError, match="must hold a pair of points, got 1 and 1"):
        shim.sigma_median(x[:1], x[:1])


def test_the_class_is_taken_for_that_of_the_package():
    """`kernel == GaussianRBF` is how a detector finds a class that it is to make a kernel of."""
    named = {"__module__": "alibi_detect.utils.pytorch.kernels"}
    theirs = type("GaussianRBF", (), named)
    assert shim.GaussianRBF == theirs
    assert theirs == shim.GaussianRBF
    assert shim.GaussianRBF == shim.GaussianRBF
    others = type("DeepKernel", (), named), type("GaussianRBF", (), {})
    assert all(shim.GaussianRBF != other for other in others)
    assert len({shim.GaussianRBF, shim.GaussianRBF}) == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("patched", [False, True])
def test_a_detector_makes_its_kernel_of_the_class(patched):
    MMDDrift = package("cd").MMDDrift
    rng = np.random.default_rng(0)
    x_ref = rng.normal(size=(50, 3)).astype(np.float32)
    x = (rng.normal(size=(40, 3)) + 0.3).astype(np.float32)
    scores = []
    for options in ({}, {"kernel": shim.GaussianRBF}):
        torch.manual_seed(0)
        with compat.patching.exchanged(shim.swaps() if patched else []):
            scores.append(MMDDrift(x_ref, backend="pytorch", **options)._detector.score(x))
    assert scores[1] == pytest.approx(scores[0], rel=1e-4, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_equal_relabellings_count_in_a_patched_detector():
    """The original's ≤: of constant data every permutation is at least as large."""
    MMDDrift = package("cd").MMDDrift
    with compat.patch("alibi_detect"):
        detector = MMDDrift(np.full((30, 2), 0.1, dtype=np.float32), backend="pytorch")
        assert detector._detector.score(np.full((20, 2), 0.1, dtype=np.float32))[0] == 1


def test_a_trainable_width_gets_its_gradient():
    x, y = clouds()
    kernel = shim.GaussianRBF(torch.tensor([1.5]).double(), trainable=True)
    (got,) = torch.autograd.grad(shim.mmd2(x, y, kernel), [kernel.log_sigma])
    log_sigma = torch.tensor([1.5]).double().log().requires_grad_()
    (want,) = torch.autograd.grad(
        plain.unbiased(mean_of_gaussians([log_sigma.exp()]), x, y), [log_sigma]
    )
    torch.testing.assert_close(got, want)


def test_a_deep_kernel_is_the_sum_of_its_parts():
    x, y = clouds()
    net = torch.nn.Linear(3, 2).double()
    kernel = shim.DeepKernel(net, eps=0.25).double()
    got = shim.mmd2(x, y, kernel)
    sigmas = [k.sigma.item() for k in (kernel.kernel_a, kernel.kernel_b)]

    def k(a, b):
        inner = mean_of_gaussians(sigmas[:1])(net(a), net(b))
        return 0.75 * inner + 0.25 * mean_of_gaussians(sigmas[1:])(a, b)

    torch.testing.assert_close(got, plain.unbiased(k, x, y), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(kernel(x, y), k(x, y), rtol=1e-6, atol=1e-8)


def test_mmd2_of_a_matrix_and_of_its_permutation():
    x, y = clouds()
    u = torch.cat([x, y])
    matrix = mean_of_gaussians([1.0])(u, u)
    want = plain.unbiased(mean_of_gaussians([1.0]), x, y)
    torch.testing.assert_close(shim.mmd2_from_kernel_matrix(matrix, 7), want)
    torch.manual_seed(0)
    got = shim.mmd2_from_kernel_matrix(matrix, 7, permute=True)
    torch.manual_seed(0)
    order = torch.randperm(16)
    u = u[order]
    torch.testing.assert_close(got, plain.unbiased(mean_of_gaussians([1.0]), u[:9], u[9:]))


def test_another_kernel_is_called():
    x, y = clouds()
    exponential = lambda a, b: torch.exp(-torch.cdist(a, b))
    torch.testing.assert_close(shim.mmd2(x, y, exponential), plain.unbiased(exponential, x, y))


def package(name: str):
    reason = "alibi-detect is not installed"
    return pytest.importorskip(f"alibi_detect.{name}", reason=reason)


DETECTORS = {
    "inferred": {},
    "given": {"sigma": np.array([0.7, 2.0], dtype=np.float32)},
    "inferred anew": {"configure_kernel_from_x_ref": False},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", DETECTORS.values(), ids=DETECTORS)
@pytest.mark.parametrize("shift", [0.0, 0.15])
def test_the_detector_scores_the_same_patched_and_unpatched(options, shift):
    MMDDrift = package("cd").MMDDrift
    rng = np.random.default_rng(0)
    x_ref = rng.normal(size=(60, 4)).astype(np.float32)
    x = (rng.normal(size=(50, 4)) + shift).astype(np.float32)
    scores = []
    for patched in (False, True):
        torch.manual_seed(0)
        if patched:
            with compat.patch("alibi_detect"):
                scores.append(MMDDrift(x_ref, backend="pytorch", **options)._detector.score(x))
        else:
            scores.append(MMDDrift(x_ref, backend="pytorch", **options)._detector.score(x))
    assert scores[1] == pytest.approx(scores[0], rel=1e-4, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_kernels_and_mmd2_of_the_package_are_the_same_patched():
    kernels, distance = package("utils.pytorch.kernels"), package("utils.pytorch.distance")
    x, y = (t.float() for t in clouds())
    for make in (
        lambda: kernels.GaussianRBF(torch.tensor([0.5, 2.0])),
        lambda: kernels.GaussianRBF(),
        lambda: kernels.DeepKernel(torch.nn.Identity(), eps=0.3),
    ):
        want = make()(x, y), distance.mmd2(x, y, make())
        with compat.patch("alibi_detect"):
            got = make()(x, y), distance.mmd2(x, y, make())
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_kernel_that_is_not_known_takes_the_original_way():
    MMDDrift = package("cd").MMDDrift

    class Exponential(torch.nn.Module):
        def forward(self, x, y, infer_sigma=False):
            return torch.exp(-torch.cdist(x, y))

    x_ref, x = (t.float().numpy() for t in clouds())
    scores = []
    for patch in (False, True):
        torch.manual_seed(0)
        with compat.patching.exchanged(shim.swaps() if patch else []):
            detector = MMDDrift(x_ref, backend="pytorch", kernel=Exponential())
            scores.append(detector._detector.score(x))
    assert scores[0] == scores[1]
