"""Folders of images and patches of photographs."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dmmd_kernels import train
from dmmd_kernels.data import images
from dmmd_kernels.data.datasets import DATASETS, Source


@pytest.fixture(scope="module")
def patches():
    pytest.importorskip("sklearn")
    return images.patches(train=60, held_out=20)


def test_patches_follow_their_seed(patches):
    again, other = (images.patches(train=60, held_out=20, seed=seed) for seed in (0, 1))
    assert patches.train.shape == (60, 3, 32, 32)
    assert patches.train.min() >= -1
    assert patches.train.max() <= 1
    assert torch.equal(patches.train, again.train)
    assert torch.equal(patches.held_out, again.held_out)
    assert not torch.equal(patches.train, other.train)


def test_no_pixel_is_in_both_parts(monkeypatch):
    """Each pixel of the photographs is given its column as its value."""
    columns = np.broadcast_to((np.arange(640) * 255 // 640).astype(np.uint8)[:, None], (640, 3))
    photographs = np.stack([np.broadcast_to(columns, (427, 640, 3))] * 2)
    bundle = type("Bundle", (), {"images": list(photographs)})
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: bundle)
    parts = images.patches(size=16, train=400, held_out=200)
    assert parts.train.max() < parts.held_out.min()


def write_pictures(folder, count, size=(12, 8)):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", size, (0, 255, 50 * i)).save(folder / f"{i}.png")


def test_a_folder_is_read_as_squares(tmp_path):
    write_pictures(tmp_path, 3)
    found = images.read_folder(tmp_path, 4)
    assert found.shape == (3, 3, 4, 4)
    expected = torch.tensor([-1.0, 1.0, 100 / 127.5 - 1])[:, None, None].expand(3, 4, 4)
    torch.testing.assert_close(found[2], expected)


def test_a_folder_of_the_library_datasets_is_read(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the library datasets is not installed")
    pictures = [Image.new("RGB", (12, 8), (0, 255, 50 * i)) for i in range(3)]
    datasets.Dataset.from_dict({"image": pictures}).cast_column(
        "image", datasets.Image()
    ).save_to_disk(tmp_path / "saved")
    write_pictures(tmp_path / "files", 3)
    found = images.read_folder(tmp_path / "saved", 4)
    assert torch.equal(found, images.read_folder(tmp_path / "files", 4))


def test_a_folder_of_a_missing_library_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        images.read_folder(tmp_path, 4)


def test_the_data_set_is_a_folder_with_parts_or_without(tmp_path):
    source = Source(root=str(tmp_path), image_size=4)
    write_pictures(tmp_path / "celeba" / "train", 3)
    alone = DATASETS["celeba"](source)
    write_pictures(tmp_path / "celeba" / "test", 2)
    split = DATASETS["celeba"](source)
    assert torch.equal(alone.train, split.train)
    assert alone.test is None
    assert split.test.shape == (2, 3, 4, 4)


@pytest.mark.parametrize("preset", ["mnist", "cifar10", "celeba64", "lsun_church64"])
def test_a_missing_data_set_is_said_in_a_sentence(tmp_path, capsys, preset):
    folders = {"--data_root": tmp_path / "none", "--out": tmp_path / "run"}
    options = [f"{name}={path}" for name, path in folders.items()]
    assert train.main(["--preset", preset, *options]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path / "none") in said
    assert "--data_root" in said
