"""MNIST and CIFAR-10 in the files they are published in, read without running anything in them.

    MNIST       train-images-idx3-ubyte … , raw or .gz                     yann.lecun.com/exdb/mnist
    CIFAR-10    cifar-10-batches-bin/data_batch_1.bin … or                 www.cs.toronto.edu/~kriz
                cifar-10-batches-py/data_batch_1 …

The python version of CIFAR-10 is a pickle, which when it is loaded may run any code of its author.
Here it is read as a description: the twenty instructions that a batch is written in are followed,
but the one that calls a function only notes what it would have called.
"""

import gzip
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dmmd_kernels.data.images import to_images


class Labelled(NamedTuple):
    """Images (N, C, H, W) in [-1, 1] and labels (N,), as published: to train on and to test on."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def mnist(root: str | Path, size: int = 32) -> Labelled:
    """MNIST's IDX files below `root`, (N, 1, size, size): black is put around the 28 × 28 pixels.

    32 × 32 is the size at which Franceschi et al. (2023), whose protocol DMMD follows, judge.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not what its name says.
    """
    parts = []
    for part in ("train", "t10k"):
        pixels = read_idx(_found(root, f"{part}-images-idx3-ubyte", "MNIST"), 3)
        around = size - pixels.shape[1]
        before, after = around // 2, around - around // 2
        margins = ((0, 0), (before, after), (before, after))
        labels = read_idx(_found(root, f"{part}-labels-idx1-ubyte", "MNIST"), 1)
        parts += [to_images(np.pad(pixels, margins)), torch.from_numpy(labels.astype(np.int64))]
    return Labelled(*parts)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of bytes: two zeros, type 8, the number of dimensions, the sizes, the bytes.

    Raises:
        ValueError: it is not one of that many dimensions, or is cut short.
    """
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    begin = 4 + 4 * dimensions
    if len(content) < begin or content[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(f"read_idx: {path} must be an IDX file of bytes, {dimensions}-dimensional")
    shape = struct.unpack(f">{dimensions}I", content[4:begin])
    if len(content) - begin != int(np.prod(shape, dtype=object)):
        raise ValueError(
            f"read_idx: {path} must hold {shape} bytes, got {len(content) - begin}; "
            "download it again"
        )
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)


def cifar10(root: str | Path) -> Labelled:
    """CIFAR-10 below `root`, (N, 3, 32, 32), from its binary or else its python version.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: a file is not what its name says.
    """
    binary = any(Path(root).rglob("data_batch_1.bin"))
    suffix, read = (".bin", _cifar_binary) if binary else ("", _cifar_python)
    names = [f"data_batch_{i}{suffix}" for i in range(1, 6)] + [f"test_batch{suffix}"]
    read_parts = [read(_found(root, name, "CIFAR-10")) for name in names]
    pixels, labels = zip(*read_parts, strict=True)
    parts: list[Tensor] = []
    for part in (slice(0, 5), slice(5, 6)):
        images = np.concatenate(pixels[part]).reshape(-1, 3, 32, 32)
        parts += [to_images(images), torch.from_numpy(np.concatenate(labels[part]))]
    return Labelled(*parts)


def _found(root: str | Path, name: str, archive: str) -> Path:
    """The file of that name, or its .gz, anywhere below root."""
    for ending in ("", ".gz"):
        for path in sorted(Path(root).rglob(name + ending)):
            return path
    raise FileNotFoundError(
        f"{archive}: no {name} below {Path(root).absolute()}; put the published files there, "
        "unpacked, or give their folder as --data_root"
    )


def _cifar_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a label and 3 × 32 × 32 bytes, red, green, blue."""
    content = np.fromfile(path, np.uint8)
    if len(content) == 0 or len(content) % 3073:
        raise ValueError(f"cifar10: {path} must hold rows of 3073 bytes, got {len(content)} bytes")
    rows = content.reshape(-1, 3073)
    return rows[:, 1:], rows[:, 0].astype(np.int64)


def _cifar_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The dictionary of a batch: b"data", an array (N, 3072) of bytes, and b"labels", a list."""
    try:
        batch = read_description(path.read_bytes())
        pixels = _pixels(batch[b"data"])
        labels = np.array(batch[b"labels"], np.int64)
        if labels.shape != pixels.shape[:1]:
            raise ValueError(f"{labels.shape} labels for {pixels.shape[:1]} images")
    except Exception as error:
        raise ValueError(f"cifar10: {path} is not a batch of CIFAR-10: {error}") from error
    return pixels, labels


class _Record:
    """Stands for an object that the file describes: its class's name, arguments and state."""

    def __init__(self, name: str, given: tuple = ()) -> None:
        self.name, self.given = name, given
        self.state: Any = None


_NAMES = {
    *("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"),
    *("numpy ndarray", "numpy dtype"),
}
_MARK = object()
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_NUMBERS = {"INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2"}


def read_description(content: bytes) -> Any:
    """What a pickle describes, of numbers, strings, lists, tuples, dictionaries and _Records.

    The machine that the file is a program for, without its instruction to call.

    Raises:
        ValueError: the file asks for something that no image needs.
    """
    stack: list[Any] = []
    memory: dict[int, Any] = {}
    value: Any
    for instruction, value, _ in pickletools.genops(content):
        name = instruction.name
        if name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _CONSTANTS or name in _NUMBERS or name == "BINUNICODE":
            stack.append(_CONSTANTS.get(name, value))
        elif name in ("BINSTRING", "SHORT_BINSTRING"):
            stack.append(value.encode("latin-1"))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memory[value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memory[value])
        elif name == "GLOBAL" and value in _NAMES:
            stack.append(_Record(value))
        elif name not in ("PROTO", "STOP"):
            _combine(stack, name, value)
    (described,) = stack
    return described


def _combine(stack: list[Any], name: str, value: Any) -> None:
    """The instructions that make one thing of several on the stack."""
    if name == "TUPLE" or name in ("APPENDS", "SETITEMS"):
        place = len(stack) - 1 - stack[::-1].index(_MARK)
        taken, stack[place:] = stack[place + 1 :], []
    else:
        count = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}.get(name, 1)
        taken, stack[-count:] = stack[-count:], []
    if name.startswith("TUPLE"):
        stack.append(tuple(taken))
    elif name.startswith("APPEND"):
        stack[-1].extend(taken)
    elif name.startswith("SETITEM"):
        stack[-1].update(zip(taken[::2], taken[1::2], strict=True))
    elif name == "REDUCE":
        stack.append(_Record(stack.pop().name, *taken))
    elif name == "BUILD":
        stack[-1].state = taken[0]
    else:
        raise ValueError(f"it asks for {value or name}, which no image needs")


def _pixels(array: Any) -> np.ndarray:
    """The array that a record of numpy's describes: (version, shape, dtype, order, bytes)."""
    _, shape, dtype, by_columns, content = array.state
    kind = dtype.given[0]
    if kind not in ("u1", b"u1") or by_columns or len(shape) != 2 or shape[1] != 3072:
        raise ValueError(f"its data must be rows of 3072 bytes, got {shape} of {kind}")
    return np.frombuffer(content, np.uint8).reshape(shape)
