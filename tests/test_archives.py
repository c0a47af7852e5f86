"""Published archives: the files are read as they are laid out, and nothing in them is run."""

import gzip
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from dmmd_kernels.data import archives

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3072), np.uint8)
LABELS = np.arange(30).reshape(6, 5) % 10
NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_mnist_is_read_with_black_around(tmp_path, ending):
    pixels = PIXELS[0].reshape(-1)[: 3 * 784].reshape(3, 28, 28)
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte{ending}", pixels)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{ending}", np.array([3, 1, 4], np.uint8))
    found = archives.mnist(tmp_path)
    assert found.train.shape == found.test.shape == (3, 1, 32, 32)
    assert (found.train[:, :, :2] == -1).all()
    assert found.train[1, 0, 2 + 5, 2 + 9].item() == pytest.approx(pixels[1, 5, 9] / 127.5 - 1)
    assert found.test_labels.tolist() == [3, 1, 4]


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: b"\1" + c[1:], lambda c: c[:5]])
def test_damaged_idx_files_are_refused(tmp_path, change):
    write_idx(tmp_path / "a", PIXELS[0])
    (tmp_path / "a").write_bytes(change((tmp_path / "a").read_bytes()))
    with pytest.raises(ValueError, match=r"read_idx: .* must"):
        archives.read_idx(tmp_path / "a", 2)


def write_binary(folder):
    for name, pixels, labels in zip(NAMES, PIXELS, LABELS, strict=True):
        rows = np.concatenate([labels[:, None].astype(np.uint8), pixels], 1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


class Python2(pickle._Pickler):
    """Writes as Python 2 did, with which CIFAR-10 was published: strings are bytes."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, value):
        self.write(b"T" + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_string


def dump(path, batch):
    with path.open("wb") as file:
        Python2(file, protocol=2).dump(batch)


def write_python(folder):
    for name, pixels, labels in zip(NAMES, PIXELS, LABELS, strict=True):
        batch = {b"data": pixels, b"labels": labels.tolist(), b"batch_label": name.encode()}
        dump(folder / name, batch)


@pytest.mark.parametrize("write", [write_binary, write_python])
def test_both_versions_of_cifar10_are_read(tmp_path, write):
    write(tmp_path)
    found = archives.cifar10(tmp_path)
    assert found.train.shape == (25, 3, 32, 32)
    assert found.test_labels.tolist() == LABELS[5].tolist()
    expected = torch.from_numpy(PIXELS[2, 3].reshape(3, 32, 32)) / 127.5 - 1
    torch.testing.assert_close(found.train[13], expected)


class Attack:
    """Runs a command when it is unpickled as usual."""

    def __init__(self, call, *given):
        self.call, self.given = call, given

    def __reduce__(self):
        return self.call, self.given


@pytest.mark.parametrize(
    "attack",
    [
        Attack(os.system, "touch owned"),
        Attack(eval, "open('owned', 'w')"),
        {b"data": Attack(np.fromfile, "/etc/passwd"), b"labels": []},
        {b"data": PIXELS[0], b"labels": Attack(getattr, Attack, "call")},
    ],
    ids=["system", "eval", "numpy", "getattr"],
)
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, monkeypatch, attack):
    monkeypatch.chdir(tmp_path)
    write_python(tmp_path)
    dump(tmp_path / "data_batch_3", attack)
    with pytest.raises(ValueError, match=r"data_batch_3 is not a batch .* which no image needs"):
        archives.cifar10(tmp_path)
    assert not (tmp_path / "owned").exists()


OTHERS = {
    "empty": {},
    "list": [],
    "no labels": {b"data": PIXELS[0]},
    "objects": {b"data": PIXELS[0].astype(object), b"labels": [1] * 5},
    "columns": {b"data": PIXELS[0].T, b"labels": [1] * 5},
    "few labels": {b"data": PIXELS[0], b"labels": [1]},
}


@pytest.mark.parametrize("batch", OTHERS.values(), ids=OTHERS)
def test_pickles_of_other_things_are_refused(tmp_path, batch):
    write_python(tmp_path)
    dump(tmp_path / "test_batch", batch)
    with pytest.raises(ValueError, match="test_batch is not a batch of CIFAR-10"):
        archives.cifar10(tmp_path)


@pytest.mark.parametrize("read", [archives.mnist, archives.cifar10])
def test_missing_files_are_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"no .* below .*; put the published files there"):
        read(tmp_path)


def test_a_cut_binary_file_is_refused(tmp_path):
    write_binary(tmp_path)
    path = tmp_path / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="must hold rows of 3073 bytes, got 15364"):
        archives.cifar10(tmp_path)
