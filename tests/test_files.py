"""Files of a run: looking at one changes nothing, writing is whole or not at all."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from dmmd_kernels.runs import checkpoint, files
from dmmd_kernels.runs.checkpoint import CheckpointError
from dmmd_kernels.runs.files import LOCK, held, write_whole
from dmmd_kernels.runs.settings import SettingsError
from dmmd_kernels.runs.tracking import read_log


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


def test_a_folder_is_held_by_one_training_at_a_time(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from dmmd_kernels.runs.files import held\n"
    )
    script += "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(SettingsError, match="another training runs in"), held(tmp_path):
            pass
        other.kill()
    with held(tmp_path):
        assert (tmp_path / LOCK).exists()


def test_a_file_is_written_whole_or_left_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    write_whole(path, "first")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, "second")
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_damaged_lines_of_a_log_are_counted_and_left_out(tmp_path, capsys):
    good = ['{"step": 5, "loss": 1.0}', '{"step": 10, "loss": 0.5}']
    bad = ["{", '{"step": "5"}', "[1]", "\x00\x00", '{"loss": 3}', "[" * 100_000]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join([good[0], *bad, good[1], '{"step": 15, "lo']))
    assert [line["step"] for line in read_log(path)] == [5, 10]
    assert "7 damaged lines left out" in capsys.readouterr().out
    assert read_log(tmp_path / "none") == []
