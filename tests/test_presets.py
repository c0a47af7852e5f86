"""The presets of images: one step of training and one level of sampling on noise."""

from dataclasses import replace

import pytest
import torch

from dmmd_kernels import train
from dmmd_kernels.presets import PARAMETERS, PRESETS
from dmmd_kernels.runs import run as definitions
from dmmd_kernels.runs.run import Dataset, make_features
from dmmd_kernels.sample import draw_samples

SHAPES = {
    "digits_unet": (1, 8, 8),
    "patches": (3, 32, 32),
    "mnist": (1, 32, 32),
    "cifar10": (3, 32, 32),
    "celeba64": (3, 64, 64),
    "lsun_church64": (3, 64, 64),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_number_of_parameters_is_the_documented_one(name):
    with torch.device("meta"):
        network = make_features(PRESETS[name].settings, torch.Size(SHAPES[name]))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert round(count / 1e6, 2) == PARAMETERS[name]


# The largest are narrowed; lsun_church64 is the same as celeba64 on other pictures.
NARROWED = {"cifar10": {"feature_width": 32}, "celeba64": {"feature_width": 32}}
TRAINED = ["digits_unet", "patches", "mnist", "cifar10", "celeba64"]


@pytest.mark.parametrize("name", TRAINED)
def test_a_preset_trains_and_samples(tmp_path, monkeypatch, name):
    noise = torch.rand(4, *SHAPES[name], generator=torch.Generator().manual_seed(0)) * 2 - 1
    settings = PRESETS[name].settings
    monkeypatch.setitem(definitions.DATASETS, settings.data, lambda _: Dataset(noise, 1.0))
    small = {"steps": 1, "batch": 2, "levels": 1, "penalty_batch": 1, "particles": 2}
    small |= {"sample_levels": 1, "sample_steps": 1} | NARROWED.get(name, {})
    monkeypatch.setattr(train, "_save", lambda *_: None)  # gigabytes
    run = train.fit(replace(settings, out=str(tmp_path), **small), progress=False)
    samples = draw_samples(run, 2)
    assert samples.shape == (2, *SHAPES[name])
    assert samples.isfinite().all()
