"""Checkpoints: a folder of safetensors and JSON that is either whole or absent. Never pickle.

    checkpoints/step-00000400/state.safetensors    every tensor of the training state
                              state.json           step, settings, versions, SHA-256 of both files

A checkpoint is written beside its place and renamed into it when all of it is on the disk, so that
a crash at any moment leaves the previous ones untouched; what it left behind is removed by the next
save. Reading changes nothing, so a run may be looked at while it trains.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors import torch as tensor_files
from torch import Tensor
from tqdm import tqdm

TENSORS, RECORD = "state.safetensors", "state.json"
_STAGING, _REMOVED = ".staging-", ".removed-"
_MAX_RECORD_BYTES = 1 << 20
_MAX_PHASES = 10_000  # each may bring a network that is built before its weights are looked for


class CheckpointError(RuntimeError):
    """A checkpoint that can't be written, or that is missing, damaged or not ours."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds: its tensors by name and its record, with step and settings."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    record: dict[str, Any]

    @property
    def phase(self) -> int:
        """Of a training in phases; 0 otherwise."""
        return self.record.get("phase", 0)


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    record: Mapping[str, Any],
    keep: int = 2,
    *,
    keep_every: int = 0,
) -> Path:
    """Writes checkpoint `step` below `folder` and removes old ones.

    The newest `keep` stay, and those of steps that are multiples of `keep_every` > 0.

    Raises:
        CheckpointError: the disk is full or the folder not writable; older ones are untouched.
    """
    place = folder / f"step-{step:08d}"
    staging = folder / f"{_STAGING}{os.getpid()}-{place.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        staging.mkdir()
        content = tensor_files.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
        body = {**record, "step": step, "tensors_sha256": hashlib.sha256(content).hexdigest()}
        _write(staging / TENSORS, content)
        _write(staging / RECORD, json.dumps({**body, "record_sha256": _digest(body)}).encode())
        _sync_folder(staging)
        if place.exists():
            _remove(place)
        staging.rename(place)
        _sync_folder(folder)
        for old in _places(folder)[keep:]:
            if not keep_every or _step_of(old) % keep_every:
                _remove(old)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise CheckpointError(f"checkpoint: {place} could not be written: {error}") from error
    return place


def load(path: Path) -> Checkpoint:
    """The checkpoint at `path`, every byte of it verified.

    Raises:
        CheckpointError: it is missing or damaged, and how.
    """
    try:
        record = _load_record(path / RECORD)
        if _file_digest(path / TENSORS) != record["tensors_sha256"]:
            raise ValueError(f"{TENSORS} is not what was written")
        tensors = tensor_files.load_file(path / TENSORS)
        return Checkpoint(path, record["step"], tensors, record)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"checkpoint: {path} can't be read: {error}") from error


def latest(folder: Path, report: Callable[[str], None] = tqdm.write) -> Checkpoint | None:
    """The newest readable checkpoint below `folder`, or None when there never was one.

    Each damaged one that is passed over is reported. One that the training which goes on there
    removes meanwhile is none: then newer ones are there.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    seen: set[Path] = set()
    while places := [place for place in _places(folder) if place not in seen]:
        place = places[0]
        seen.add(place)
        try:
            return load(place)
        except CheckpointError as error:
            if place.exists():
                report(f"{error}; trying the one before it")
    if left := _places(folder):
        raise CheckpointError(f"checkpoint: none of the {len(left)} in {folder} can be read")
    return None


def discard_after(folder: Path, step: int) -> None:
    """Removes the checkpoints after `step`: damaged ones, which a continued run writes again."""
    for place in _places(folder):
        if _step_of(place) > step:
            _remove(place)


def find(path: str | Path, report: Callable[[str], None] = tqdm.write) -> Checkpoint:
    """The checkpoint that a user means by `path`: one checkpoint, or the newest of a run.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    path = path.parent if path.name in (TENSORS, RECORD) else path
    if (path / RECORD).exists():
        return load(path)
    for folder in (path / "checkpoints", path):
        found = latest(folder, report)
        if found is not None:
            return found
    raise CheckpointError(
        f"checkpoint: {path} holds no checkpoint; give the folder of a run, such as runs/digits"
    )


def peek(path: str | Path) -> dict[str, Any]:
    """The record alone of the checkpoint that `find` would take; {} where none can be read."""
    path = Path(path)
    places = [path, path.parent, *_places(path / "checkpoints"), *_places(path)]
    for place in places:
        try:
            return _load_record(place / RECORD)
        except (OSError, ValueError, RecursionError):
            continue
    return {}


def _places(folder: Path) -> list[Path]:
    """Checkpoints below the folder, newest first."""
    return sorted(folder.glob("step-" + "[0-9]" * 8), reverse=True)


def _step_of(place: Path) -> int:
    return int(place.name.removeprefix("step-"))


def _remove(place: Path) -> None:
    """Whole, for those who look: it has another name before its first file goes."""
    aside = place.with_name(f"{_REMOVED}{place.name}")
    shutil.rmtree(aside, ignore_errors=True)
    place.rename(aside)
    shutil.rmtree(aside)


def _remove_stale(folder: Path) -> None:
    """What crashes left behind: that of this process, of dead ones, and of none."""
    for half in folder.glob(f"{_REMOVED}*"):
        shutil.rmtree(half, ignore_errors=True)
    for stale in folder.glob(f"{_STAGING}*"):
        owner = stale.name.removeprefix(_STAGING).partition("-")[0]
        if not owner.isdecimal() or int(owner) == os.getpid() or not _lives(int(owner)):
            shutil.rmtree(stale, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _load_record(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_RECORD_BYTES:
        raise ValueError(f"{RECORD} is larger than {_MAX_RECORD_BYTES} bytes")
    record = json.loads(path.read_bytes())
    if not isinstance(record, dict):
        raise ValueError(f"{RECORD} must be a JSON object, got {type(record).__name__}")
    if record.pop("record_sha256", None) != _digest(record):
        raise ValueError(f"{RECORD} is not what was written")
    if type(record.get("step")) is not int or not isinstance(record.get("settings"), dict):
        raise ValueError(f"{RECORD} must have a step and settings")
    if type(record.get("phase", 0)) is not int or not 0 <= record.get("phase", 0) < _MAX_PHASES:
        raise ValueError(f"{RECORD} must have a phase from 0 to {_MAX_PHASES - 1}")
    return record


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """A rename is only durable when the folder that holds the name is on the disk too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
