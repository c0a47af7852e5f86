"""Samples as files."""

import numpy as np
import pytest
import torch
from PIL import Image

from dmmd_kernels.evaluation import outputs


@pytest.mark.parametrize("kind", ["digits", "points"])
def test_a_trajectory_has_a_frame_for_the_start_and_each_level(tmp_path, kind):
    shape = (1, 4, 4) if kind == "digits" else (2,)
    states = [(f"t = {t:.2f}", torch.randn(12, *shape)) for t in (1.0, 0.5, 0.1)]
    outputs.write_trajectory(tmp_path / "new" / "x.gif", states)
    with Image.open(tmp_path / "new" / "x.gif") as picture:
        assert picture.n_frames == 3
        times = []
        for frame in range(3):
            picture.seek(frame)
            times.append(picture.info["duration"])
    assert times == [200, 200, 1500]


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4), (3, 4, 4)], ids=str)
def test_samples_are_arrays_or_pictures_by_the_ending(tmp_path, shape):
    samples = torch.rand(6, *shape)
    outputs.write_samples(tmp_path / "new" / "x.npz", samples)
    with np.load(tmp_path / "new" / "x.npz") as file:
        assert np.array_equal(file["samples"], samples.numpy())
    outputs.write_samples(tmp_path / "x.png", samples)
    with Image.open(tmp_path / "x.png") as picture:
        assert min(picture.size) > 4
    with pytest.raises(ValueError, match=r"path must end in .npz or .png, got .*x.jpg"):
        outputs.write_samples(tmp_path / "x.jpg", samples)
