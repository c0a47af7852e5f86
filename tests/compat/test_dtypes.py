"""Stand-ins take mixed dtypes, give float32 under autocast, and round halves once."""

import pytest
import torch

from dmmd_kernels.compat import (
    alibi_detect,
    cmmd,
    dk_tst,
    domainbed,
    geomloss,
    inn,
    mmd_gan,
    mmd_loss_pytorch,
    sbi,
    tllib,
    torchmetrics,
    transferlearning,
)

LABELS, LOGITS = torch.arange(8) % 3, torch.linspace(-1, 1, 24).reshape(8, 3)


def tllib_kernels():
    return [tllib.GaussianKernel(alpha=2.0**k) for k in range(-2, 2)]


def local_mmd(x, y):
    loss = transferlearning.LMMDLoss(3)
    loss.step()
    return loss(x, y, LABELS, LOGITS.to(y).softmax(1))


def joint_mmd(x, y):
    loss = tllib.JointMultipleKernelMaximumMeanDiscrepancy([tllib_kernels(), tllib_kernels()])
    return loss((x, 2 * x), (y, 2 * y))


LOSSES = {
    "MMD_loss": lambda x, y: transferlearning.MMD_loss()(x, y),
    "MMDLoss of DeepDA": lambda x, y: transferlearning.MMDLoss()(x, y),
    "LMMDLoss": local_mmd,
    "cmmd of classes": lambda x, y: transferlearning.cmmd(x, y, LABELS, LABELS),
    "accelerated": transferlearning.mmd_rbf_accelerate,
    "mmd_linear": transferlearning.mmd_linear,
    "guassian_kernel": transferlearning.guassian_kernel,
    "MK-MMD": lambda x, y: tllib.MultipleKernelMaximumMeanDiscrepancy(tllib_kernels())(x, y),
    "joint MMD": joint_mmd,
    "mix_rbf_mmd2": lambda x, y: mmd_gan.mix_rbf_mmd2(X=x, Y=y, sigma_list=[1.0, 2.0]),
    "ratio": lambda x, y: mmd_gan.mix_rbf_mmd2_and_ratio(x, y, [1.0, 2.0])[0],
    "mix_rq_mmd2": mmd_gan.mix_rq_mmd2,
    "linear_mmd2": mmd_gan.linear_mmd2,
    "poly_mmd2": mmd_gan.poly_mmd2,
    "MMDLoss of yiftachbeer": mmd_loss_pytorch.MMDLoss(),
    "DomainBed": domainbed.mmd,
    "CORAL": lambda x, y: domainbed.mmd(x, y, "CORAL"),
    "geomloss": geomloss.SamplesLoss("energy"),
    "geomloss, potentials": lambda x, y: geomloss.SamplesLoss("gaussian", potentials=True)(x, y)[0],
    "MMD_multiscale": inn.MMD_multiscale,
    "sbi": sbi.unbiased_mmd_squared,
    "sbi, biased": sbi.biased_mmd,
    "torchmetrics": torchmetrics.poly_mmd,
    "deep kernel": lambda x, y: dk_tst.MMDu(torch.cat([x, y]), 8, torch.cat([y, x]), 2.0)[0],
    "alibi": lambda x, y: alibi_detect.mmd2(x, y, alibi_detect.GaussianRBF()),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
HALVES = [torch.float16, torch.bfloat16]


def samples(one, other):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 3, generator=g), torch.randn(8, 3, generator=g) + 0.5
    return x.to(one), y.to(other)


@each_loss
@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.float16, torch.float32),
        (torch.float64, torch.bfloat16, torch.float64),
    ],
)
def test_mixed_dtypes_are_promoted(loss, one, other, both):
    x, y = samples(one, other)
    got, expected = loss(x, y), loss(x.to(both), y.to(both))
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected)


@each_loss
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_the_float32_value_rounded_once(loss, dtype):
    x, y = samples(dtype, dtype)
    exact = loss(x.double(), y.double())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(loss(x, y).double(), exact, rtol=eps, atol=1e-5)


@each_loss
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_autocast_gives_float32_as_of_float32(loss, dtype):
    if loss is LOSSES["alibi"] and dtype in HALVES:
        pytest.skip("alibi_detect.mmd2 runs a network on what it is given, in its own dtype")
    if loss in (LOSSES["joint MMD"], LOSSES["deep kernel"]) and dtype == torch.float16:
        pytest.skip("torch.cat takes no float16 under autocast to bfloat16 on the CPU")
    x, y = samples(dtype, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(x, y)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, loss(x.float(), y.float()))


@pytest.mark.parametrize("dtype", HALVES)
def test_arrays_in_half_precision_are_computed_in_float32(dtype):
    x, y = (t.half().numpy() for t in samples(torch.float32, torch.float32))
    got = cmmd.mmd(x, y)
    exact = cmmd.mmd(x.astype("float64"), y.astype("float64"))
    assert got.item() == pytest.approx(exact.item(), rel=2**-10)


def test_a_theta_in_half_precision_sees_its_own_dtype():
    theta = torch.nn.Linear(3, 3).bfloat16()
    kernels = [tllib_kernels()]
    loss = tllib.JointMultipleKernelMaximumMeanDiscrepancy(kernels, thetas=[theta])
    x, y = samples(torch.bfloat16, torch.bfloat16)
    assert loss([x], [y]).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["MMD_loss", "DomainBed", "mix_rq_mmd2", "sbi"])
def test_images_are_asked_for_as_rows(name):
    images = torch.randn(4, 3, 8, 8)
    with pytest.raises(ValueError, match=r"looks like images, \(4, 3, 8, 8\); pass \w+\.flatten"):
        LOSSES[name](images, images)
