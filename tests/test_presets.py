"""The presets of images: one step of training and one level of sampling on noise."""

from dataclasses import replace

import pytest
import torch

from dmmd_kernels.data.datasets import DATASETS, Dataset
from dmmd_kernels.presets import PRESETS, settings_of
from dmmd_kernels.runs import loop
from dmmd_kernels.runs.backbone import make_features
from dmmd_kernels.runs.run import draw_samples
from dmmd_kernels.runs.settings import SettingsError
from dmmd_kernels.systems import SYSTEMS, fit

SHAPES = {
    "digits_unet": (1, 8, 8),
    "patches": (3, 32, 32),
    "mnist": (1, 32, 32),
    "cifar10": (3, 32, 32),
    "celeba64": (3, 64, 64),
    "lsun_church64": (3, 64, 64),
}
# Millions of parameters of the feature network, as docs/images.md has them.
PARAMETERS = {
    "digits_unet": 0.68,
    "patches": 0.91,
    "mnist": 13.14,
    "cifar10": 39.94,
    "celeba64": 95.48,
    "lsun_church64": 95.48,
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_number_of_parameters_is_the_documented_one(name):
    with torch.device("meta"):
        network = make_features(settings_of(name).system, torch.Size(SHAPES[name]))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert round(count / 1e6, 2) == PARAMETERS[name]


# The largest are narrowed; lsun_church64 is the same as celeba64 on other pictures.
NARROWED = {"cifar10": {"feature_width": 32}, "celeba64": {"feature_width": 32}}
TRAINED = ["digits_unet", "patches", "mnist", "cifar10", "celeba64"]


@pytest.mark.parametrize("name", TRAINED)
def test_a_preset_trains_and_samples(tmp_path, monkeypatch, name):
    noise = torch.rand(4, *SHAPES[name], generator=torch.Generator().manual_seed(0)) * 2 - 1
    settings = settings_of(name)
    monkeypatch.setitem(DATASETS, settings.data, lambda _: Dataset(noise, 1.0))
    small = {"steps": 1, "batch": 2, "levels": 1, "penalty_batch": 1, "particles": 2}
    small |= {"sample_levels": 1, "sample_steps": 1} | NARROWED.get(name, {})
    monkeypatch.setattr(loop, "_save", lambda *_: None)  # gigabytes
    run = fit(settings.changed(out=str(tmp_path), **small), progress=False)
    samples = draw_samples(run, 2)
    assert samples.shape == (2, *SHAPES[name])
    assert samples.isfinite().all()


def test_two_presets_differ_in_their_pictures_alone():
    church = settings_of("celeba64").changed(preset="lsun_church64", data="lsun_church")
    assert settings_of("lsun_church64") == church


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_a_data_set_there_is(name):
    assert settings_of(name).data in DATASETS


def test_a_system_names_the_presets_it_has(monkeypatch):
    monkeypatch.setitem(SYSTEMS, "dmmd", replace(SYSTEMS["dmmd"], defaults={"digits": {}}))
    with pytest.raises(SettingsError, match="--preset of dmmd must be one of digits, got 'mnist'"):
        settings_of("mnist")
