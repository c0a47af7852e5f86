"""torchmetrics' kernel inception distance, patched against unpatched, on features of one's own."""

import pytest
import torch

from dmmd_kernels import compat, metrics
from dmmd_kernels.compat import torchmetrics as shim
from tests.compat import plain


def features(n: int, d: int = 16, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d) + shift


def installed():
    return pytest.importorskip("torchmetrics.image.kid", reason="torchmetrics is not installed")


def test_poly_mmd_is_that_of_plain_code():
    x, y = features(30), features(30, shift=0.3)
    want = plain.unbiased(plain.cubes, x.double(), y.double()).float()
    torch.testing.assert_close(shim.poly_mmd(x, y), want, rtol=1e-5, atol=1e-7)
    blocks = [shim.poly_kernel(a, b) for a, b in ((x, x), (x, y), (y, y))]
    torch.testing.assert_close(blocks[1], plain.cubes(x, y))
    torch.testing.assert_close(shim.maximum_mean_discrepancy(*blocks), want, rtol=1e-3, atol=1e-4)


def test_all_subsets_at_once_are_each_alone(monkeypatch):
    monkeypatch.setattr(shim, "_MOST_BYTES", 8 * 10 * 16 * 3)  # three subsets at a time
    x, y = features(40), features(50, shift=0.3)
    rows = torch.stack([torch.randperm(40)[:20].view(2, 10) for _ in range(7)])
    got = shim.poly_mmd_of_subsets(x, y, rows, 3, None, 1.0)
    want = [shim.poly_mmd(x[a], y[b]) for a, b in rows]
    torch.testing.assert_close(got, torch.stack(want), rtol=1e-4, atol=1e-7)


def metric(made, **options):
    """A KID on features that are given as they are."""
    identity = torch.nn.Flatten()
    identity.num_features = 16
    chosen = made(feature=identity, subsets=9, subset_size=25, **options)
    chosen.used_custom_model = True
    for real, count in ((True, 60), (False, 70)):
        kind = chosen.real_features if real else chosen.fake_features
        kind += [features(count // 2, shift=0.2 * real), features(count // 2, shift=0.2 * real)]
    return chosen


@pytest.mark.parametrize("options", [{}, {"degree": 2, "gamma": 0.1, "coef": 0.5}], ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_metric_is_the_same_patched_and_unpatched(options):
    kid = installed()

    def value(chosen):
        torch.manual_seed(0)
        return chosen.compute()

    torch.manual_seed(1)
    before = metric(kid.KernelInceptionDistance, **options)
    want = value(before)
    before._computed = None
    with compat.patch("torchmetrics"):
        torch.manual_seed(1)
        made_within = metric(kid.KernelInceptionDistance, **options)
        assert type(made_within).compute is shim.compute
        got = [value(before), value(made_within)]
    for result in got:
        torch.testing.assert_close(result, want, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_import_swap_is_the_same_metric():
    kid = installed()
    assert issubclass(shim.KernelInceptionDistance, kid.KernelInceptionDistance)
    values = []
    for made in (kid.KernelInceptionDistance, shim.KernelInceptionDistance):
        torch.manual_seed(0)
        values.append(metric(made).compute())
    torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-5)


def test_poly_mmd_of_the_package_is_exchanged():
    kid = installed()
    x, y = features(30), features(30, shift=0.3)
    want = kid.poly_mmd(x, y)
    with compat.patch("torchmetrics"):
        assert kid.poly_mmd is shim.poly_mmd
        torch.testing.assert_close(kid.poly_mmd(x, y), want, rtol=1e-4, atol=1e-5)
    assert kid.poly_mmd is not shim.poly_mmd


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_too_few_samples_are_named():
    chosen = metric(installed().KernelInceptionDistance)
    chosen.subset_size = 65
    with (
        compat.patch("torchmetrics"),
        pytest.raises(ValueError, match="number of real samples, 60"),
    ):
        type(chosen).compute(chosen)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fid_is_that_of_the_package_on_the_same_features():
    fid = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics is not installed")
    identity = torch.nn.Flatten()
    identity.num_features = 16
    theirs = fid.FrechetInceptionDistance(feature=identity).set_dtype(torch.float64)
    x, y = 1.3 * features(300).double(), features(250, shift=0.2).double()
    theirs.update(y, real=True)
    theirs.update(x, real=False)
    assert metrics.fid(x, y) == pytest.approx(theirs.compute().item(), rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"degree": 2, "gamma": 0.1, "coef": 0.5}], ids=str)
def test_kid_is_that_of_the_package_on_all_pairs(options):
    poly_mmd = installed().poly_mmd
    x, y = features(60).double(), features(60, shift=0.3).double()
    assert metrics.kid(x, y, **options) == pytest.approx(poly_mmd(x, y, **options).item(), rel=1e-9)
