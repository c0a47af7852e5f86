"""MMD-GAN on points: its two steps are its equations, and its samples come from the average."""

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.data.datasets import Dataset
from dmmd_kernels.runs.run import Run, draw_samples
from dmmd_kernels.runs.settings import Settings, SettingsError
from dmmd_kernels.systems import mmd_gan
from dmmd_kernels.systems.mmd_gan import MMD_GAN, MmdGanSettings

SETTINGS = Settings(
    backend="reference",
    steps=200,
    batch=64,
    system=MmdGanSettings(generator_width=16, generator_depth=1),
)


@pytest.fixture
def dataset():
    generator = torch.Generator().manual_seed(0)
    return Dataset(torch.randn(400, 2, generator=generator), 1.0)


def test_the_width_begins_where_it_is_told_and_keeps_its_floor():
    width = mmd_gan.Width(0.7)
    assert width().item() == pytest.approx(0.7)
    with torch.no_grad():
        width.a.fill_(-100.0)
    assert width().item() == pytest.approx(mmd_gan.FLOOR)


def test_the_width_ascends_mmd2_and_the_generator_descends_it(dataset):
    """A step moves each against the sign of its own derivative of the batch it saw."""
    state = mmd_gan.build(SETTINGS, dataset)
    generator, width = state.networks["generator"], state.networks["width"]
    x = generator(mmd_gan.latent(0, 0, SETTINGS, dataset)).detach()
    y = mmd_gan.batch_of(0, 0, SETTINGS, dataset)
    (slope,) = torch.autograd.grad(dk.mmd2(x, y, dk.gaussian(width())), width.a)
    before = width.a.item()
    weights = [p.clone() for p in generator.parameters()]
    told = mmd_gan.step(state, SETTINGS, dataset)
    assert (width.a.item() - before) * slope.item() > 0
    assert told["sigma"].item() == width().item()
    fresh = mmd_gan.build(SETTINGS, dataset).networks["generator"]
    z, y = mmd_gan.latent(0, 1, SETTINGS, dataset), mmd_gan.batch_of(0, 1, SETTINGS, dataset)
    gap = dk.mmd2(fresh(z), y, dk.gaussian(width().detach()))
    slopes = torch.autograd.grad(gap, list(fresh.parameters()))
    assert told["mmd2"].item() == pytest.approx(gap.item(), rel=1e-6)
    moved = [p - w for p, w in zip(generator.parameters(), weights, strict=True)]
    along = sum((m * s).sum() for m, s in zip(moved, slopes, strict=True))
    assert along < 0


def test_the_gradient_at_a_sample_is_that_of_the_witness():
    """∂MMD²_u/∂x_i = (2/N) ∇f(x_i), with N - 1 for N in the pull of the other samples."""
    x, y = torch.randn(7, 2).double().requires_grad_(), torch.randn(9, 2).double()
    kernel = dk.gaussian(0.8)
    (got,) = torch.autograd.grad(dk.mmd2(x, y, kernel, backend="reference"), x)
    at, share = x.detach(), torch.full((7,), 1 / 6).double()
    others = dk.potential_grad(at, at, share, kernel, backend="reference")
    data = dk.potential_grad(at, y, torch.full((9,), 1 / 9).double(), kernel, backend="reference")
    torch.testing.assert_close(got, 2 / 7 * (others - data))


def test_a_generator_that_can_only_shift_finds_the_mean():
    """G(ζ) = ζ + b against N(c, I): b → c, since MMD² is least where the two are one."""
    target = torch.tensor([1.5, -0.5])
    clean = Dataset(torch.randn(4000, 2, generator=torch.Generator().manual_seed(1)) + target, 1.0)
    settings = SETTINGS.changed(backend="auto", steps=150, batch=200, generator_rate=0.1)
    state = mmd_gan.build(settings, clean)
    shift = torch.nn.Linear(2, 2)
    with torch.no_grad():
        shift.weight.copy_(torch.eye(2))
        shift.bias.zero_()
    shift.weight.requires_grad_(False)
    state.networks["generator"].__dict__["_modules"].clear()
    state.networks["generator"].append(shift)
    state.networks["ema"] = state.networks["generator"]
    adam = torch.optim.Adam([shift.bias], betas=mmd_gan.BETAS)
    state.followers["adam"] = state.followers["adam"]._replace(optimizer=adam)
    for _ in range(settings.steps):
        mmd_gan.step(state, settings, clean)
    spread = clean.train.mean(0) - target
    assert (shift.bias - target - spread).norm() < 0.1


def test_a_step_depends_on_seed_and_step_alone(dataset):
    ends = []
    for noise in (0, 1):
        state = mmd_gan.build(SETTINGS, dataset)
        torch.manual_seed(noise)
        for _ in range(3):
            mmd_gan.step(state, SETTINGS, dataset)
        ends.append(state.tensors())
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0] if k != "random")


def test_samples_come_from_the_average_and_do_not_depend_on_how_many(dataset, tmp_path):
    state = mmd_gan.build(SETTINGS, dataset)
    run = Run(MMD_GAN, SETTINGS, tmp_path, state, dataset)
    many = draw_samples(run, 1200)
    assert torch.equal(draw_samples(run, 7), many[:7])
    assert torch.equal(draw_samples(run, 1001), many[:1001])
    with torch.no_grad():
        state.networks["generator"][0].weight += 1
    assert torch.equal(draw_samples(run, 7), many[:7])
    assert not torch.equal(draw_samples(run, 7, seed=1), many[:7])


def test_images_are_refused_in_a_sentence():
    images = Dataset(torch.zeros(9, 1, 4, 4), 1.0)
    with pytest.raises(SettingsError, match=r"mmd_gan needs points \(N, d\), got data=digits"):
        mmd_gan.build(SETTINGS.changed(data="digits"), images)
    with pytest.raises(SettingsError, match=r"width_start must be above 0.01, got 0.01"):
        MmdGanSettings(width_start=0.01)


@pytest.mark.slow
def test_the_width_falls_as_the_samples_come_near():
    """On the checkerboard σ falls from 1 below a half in a tenth of the preset's steps."""
    from dmmd_kernels.data.datasets import DATASETS, Source
    from dmmd_kernels.presets import settings_of

    settings = settings_of("checkerboard", "mmd_gan").changed(backend="auto")
    board = DATASETS["checkerboard"](Source())
    state, widths = mmd_gan.build(settings, board), []
    for _ in range(settings.steps // 10):
        widths.append(mmd_gan.step(state, settings, board)["sigma"].item())
    assert widths[0] > 0.9
    assert widths[-1] < 0.5
