"""Toy distributions have the moments they state; splits and batches are functions of their seed."""

import numpy as np
import pytest
import torch
from PIL import Image

from dmmd_kernels import data


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn")
    return data.digits()


@pytest.mark.parametrize("toy", data.TOYS.values(), ids=data.TOYS)
def test_a_toy_is_centred_and_follows_its_generator(toy):
    points = toy(20_000, torch.Generator().manual_seed(3))
    again = toy(20_000, torch.Generator().manual_seed(3))
    assert points.shape == (20_000, 2)
    assert points.dtype == torch.float32
    assert torch.equal(points, again)
    assert 0.3 < points.std() < 1.3
    if toy is not data.swiss_roll:  # a spiral has no centre
        assert points.mean(0).abs().max() < 0.05


def test_every_point_of_the_checkerboard_is_inside_and_all_eight_cells_are_used():
    points = data.checkerboard(4000, torch.Generator().manual_seed(0))
    cells, counts = torch.unique(points.floor(), dim=0, return_counts=True)
    assert data.inside_checkerboard(points) == 1
    assert len(cells) == 8
    assert (counts - 500).abs().max() < 100
    torch.testing.assert_close(points.var(0), torch.full((2,), 4 / 3), rtol=0.05, atol=0)


def test_light_cells_and_points_off_the_board_are_outside():
    points = torch.tensor([[0.5, 0.5], [-1.5, 1.5], [-0.5, 0.5], [0.5, 2.5], [2.5, 0.5]])
    assert data.inside_checkerboard(points) == pytest.approx(1 / 5)


def test_the_three_rings_are_circles():
    points = data.three_rings(300, torch.Generator().manual_seed(0))
    nearest = 0.75 * (points[:, 1] / 0.75).round().clamp(-1, 1)
    radius = (points - torch.stack([torch.zeros(300), nearest], 1)).norm(dim=1)
    torch.testing.assert_close(radius, torch.full((300,), 0.3))


def test_the_digits_are_split_by_class_without_overlap(digits):
    assert digits.train.shape[1:] == (1, 8, 8)
    assert len(digits.train) + len(digits.held_out) == 1797
    assert digits.train.min() == -1
    assert digits.train.max() == 1
    kept, out = digits.train_labels.bincount(), digits.held_out_labels.bincount()
    assert ((out / (kept + out) - 0.2).abs() < 0.005).all()
    everything = torch.cat([digits.train, digits.held_out]).flatten(1)
    assert len(everything.unique(dim=0)) == 1797  # so no image can be in both parts


def test_the_split_is_fixed_by_its_seed(digits):
    assert torch.equal(data.digits(0).held_out, digits.held_out)
    assert not torch.equal(data.digits(1).held_out, digits.held_out)


def test_an_epoch_of_batches_visits_every_row_once():
    batches = [data.batch_indices(24, 6, seed=1, step=s) for s in range(8)]
    assert torch.equal(torch.cat(batches[:4]).sort().values, torch.arange(24))
    assert torch.equal(torch.cat(batches[4:]).sort().values, torch.arange(24))
    assert not torch.equal(torch.cat(batches[:4]), torch.cat(batches[4:]))


def test_a_batch_depends_on_seed_step_and_stream_alone():
    def batch(**change):
        return data.batch_indices(1000, 10, **{"seed": 1, "step": 7, "stream": 0} | change)

    assert torch.equal(batch(), batch())
    for change in ({"seed": 2}, {"step": 8}, {"stream": 1}):
        assert not torch.equal(batch(), batch(**change))


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match=r"size must be in 1\.\.count = 5, got 6"):
        data.batch_indices(5, 6, seed=0, step=0)


def test_arrays_are_read_and_integers_become_images(tmp_path):
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    np.save(tmp_path / "pixels.npy", pixels)
    images = data.read_array(tmp_path / "pixels.npy")
    assert images.shape == (2, 3, 4, 5)
    torch.testing.assert_close(images[1, 2, 3, 4].item(), pixels[1, 3, 4, 2] / 127.5 - 1)

    np.savez(tmp_path / "points.npz", a=np.ones((3, 2)), b=np.zeros((3, 2)))
    assert torch.equal(data.read_array(tmp_path / "points.npz", "b"), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="key must name one of"):
        data.read_array(tmp_path / "points.npz")


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        data.read_array(tmp_path / "objects.npy")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_written_grid_is_read_back(tmp_path, channels):
    images = torch.linspace(-1, 1, 4 * channels * 9).reshape(4, channels, 3, 3)
    data.write_grid(tmp_path / "grid.png", images, columns=2, zoom=1)
    grid = data.read_images(tmp_path, channels=channels)
    assert grid.shape == (1, channels, 8, 8)
    cells = [grid[0, :, r : r + 3, c : c + 3] for r in (0, 4) for c in (0, 4)]
    torch.testing.assert_close(torch.stack(cells), images, rtol=0, atol=1.01 / 255)


def test_images_of_different_sizes_need_a_size(tmp_path):
    for name, size in (("a", (8, 8)), ("b", (6, 9))):
        Image.new("RGB", size, "white").save(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match="give `size` to resize"):
        data.read_images(tmp_path)
    assert torch.equal(data.read_images(tmp_path, size=4), torch.ones(2, 3, 4, 4))
