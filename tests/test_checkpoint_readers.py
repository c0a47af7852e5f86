"""Looking at a run changes nothing, also while it is training."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from dmmd_kernels.runs import checkpoint
from dmmd_kernels.runs.checkpoint import CheckpointError


def save(folder, step, **how):
    return checkpoint.save(folder, step, {"a": torch.full((3,), step)}, {"settings": {}}, **how)


def test_a_reader_beside_a_save_leaves_it_alone(tmp_path, monkeypatch):
    folder, write = tmp_path / "checkpoints", checkpoint._write
    save(folder, 1)

    def looked_at(path, content):
        assert checkpoint.find(tmp_path).step == 1
        checkpoint.peek(tmp_path)
        write(path, content)

    monkeypatch.setattr(checkpoint, "_write", looked_at)
    save(folder, 2)
    assert checkpoint.find(tmp_path).step == 2


def test_a_save_removes_what_dead_processes_left_and_no_other(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {f".staging-{owner}-step-00000009" for owner in (dead.pid, os.getpid(), os.getppid())}
    for name in (*names, ".staging-step-00000009"):
        (tmp_path / name).mkdir()
    save(tmp_path, 1)
    left = {path.name for path in tmp_path.glob(".*")}
    assert left == {f".staging-{os.getppid()}-step-00000009"}


def test_checkpoints_that_go_while_they_are_read_give_way_to_newer_ones(tmp_path, monkeypatch):
    for step in (1, 2):
        save(tmp_path, step)
    load = checkpoint.load

    def overtaken(place):
        if place.name == "step-00000002":
            save(tmp_path, 3, keep=1)  # the training has gone on
        return load(place)

    monkeypatch.setattr(checkpoint, "load", overtaken)
    said = []
    assert checkpoint.latest(tmp_path, said.append).step == 3
    assert not said


def test_a_folder_in_which_all_are_damaged_says_so(tmp_path):
    place = save(tmp_path, 1)
    (place / checkpoint.TENSORS).write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 1 in"):
        checkpoint.latest(tmp_path, lambda _: None)
    shutil.rmtree(place)
    assert checkpoint.latest(tmp_path) is None


def test_peeking_reads_the_newest_record_that_is_whole(tmp_path):
    for step in (1, 2):
        save(tmp_path / "checkpoints", step)
    assert checkpoint.peek(tmp_path)["step"] == 2
    (tmp_path / "checkpoints" / "step-00000002" / checkpoint.RECORD).write_bytes(b"{}")
    assert checkpoint.peek(tmp_path)["step"] == 1
    assert checkpoint.peek(tmp_path / "nowhere") == {}
