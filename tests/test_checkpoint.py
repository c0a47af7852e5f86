"""Damaged, forged and unwritable checkpoints: typed errors, and the one before."""

import os
import random

import pytest
import torch
from safetensors.torch import save as to_bytes

from dmmd_kernels import train
from dmmd_kernels.runs import checkpoint
from dmmd_kernels.runs.checkpoint import CheckpointError
from dmmd_kernels.runs.settings import SettingsError
from dmmd_kernels.systems import load_run
from tests.runs import TINY, digest, fit, forge


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    fit(folder)
    return folder


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, capsys, finished):
    fit(tmp_path / "run")
    newest = checkpoint.find(tmp_path / "run").path
    content = bytearray((newest / checkpoint.TENSORS).read_bytes())
    content[len(content) // 2] ^= 1
    (newest / checkpoint.TENSORS).write_bytes(content)
    fit(tmp_path / "run", resume=True)
    said = capsys.readouterr().out
    assert "step-00000020 can't be read: state.safetensors is not what was written" in said
    assert "continuing" in said
    assert digest(tmp_path / "run") == digest(finished)


def test_when_all_are_damaged_it_says_so(tmp_path, capsys):
    fit(tmp_path / "run")
    for record in tmp_path.rglob(checkpoint.RECORD):
        record.write_bytes(record.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"none of the 2 in .* can be read"):
        fit(tmp_path / "run", resume=True)
    assert train.main(["--out", str(tmp_path / "run"), "--resume"]) == 1
    assert "none of the 2" in capsys.readouterr().err


def test_a_full_disk_leaves_the_older_checkpoints(tmp_path, monkeypatch, finished):
    fit(tmp_path / "run", steps=10, decay="constant")
    before = digest(tmp_path / "run")

    sync = os.fsync

    def full(handle):
        if "checkpoints" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"could not be written.*No space left"):
        fit(tmp_path / "run", steps=20, decay="constant", resume=True)
    monkeypatch.undo()
    assert digest(tmp_path / "run") == before
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def mutated(content, chance):
    """One random change: a flipped byte, a cut, a run of noise, or doubled content."""
    content, place = bytearray(content), chance.randrange(len(content))
    kind = chance.randrange(4)
    if kind == 0:
        content[place] ^= chance.randrange(1, 256)
    elif kind == 1:
        del content[place:]
    elif kind == 2:
        content[place : place + 8] = chance.randbytes(8)
    else:
        content += content[place:]
    return bytes(content)


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.RECORD])
def test_mutated_checkpoints_are_refused(tmp_path, finished, name):
    place = checkpoint.find(finished).path
    files = {f: (place / f).read_bytes() for f in (checkpoint.TENSORS, checkpoint.RECORD)}
    chance = random.Random(1)
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    for _ in range(300):
        changed = mutated(files[name], chance)
        if changed == files[name]:
            continue
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(CheckpointError, match="can't be read"):
            checkpoint.load(tmp_path)


def test_forged_checkpoints_give_typed_errors(tmp_path, finished):
    found, chance = checkpoint.find(finished), random.Random(2)
    content = (found.path / checkpoint.TENSORS).read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    typed = 0
    for _ in range(300):
        changed = mutated(content[:header], chance) + content[header:]
        forge(tmp_path / "forged", changed, found.record)
        try:
            load_run(tmp_path / "forged", "cpu")
        except (CheckpointError, SettingsError):
            typed += 1
    assert typed > 200  # the rest changed nothing that is read


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {}},
        {"settings": {"unknown": 1}},
        {"settings": TINY.flat() | {"data": "../../etc/passwd"}},
        {"settings": TINY.flat() | {"width_hidden": 9}},
        {"settings": TINY.flat() | {"batch": "many"}},
        {"settings": TINY.flat() | {"t_min": 2.0}},
        {"settings": TINY.flat() | {"system": "none"}},
        {"settings": TINY.flat() | {"system": None}},
        {"settings": TINY.flat() | {"unet_attention": [[4]]}},
        {"settings": 7},
        {"step": "ten"},
        {"step": True},
        {"phase": -1},
        {"phase": 10_000},
        {"phase": 10**30},
        {"phase": "1"},
        {"phase": 1.0},
        {"phase": True},
        {"phase": None},
        {"phase": [0]},
    ],
    ids=str,
)
def test_forged_records_give_typed_errors(tmp_path, finished, change):
    found = checkpoint.find(finished)
    forge(tmp_path, (found.path / checkpoint.TENSORS).read_bytes(), found.record | change)
    with pytest.raises((CheckpointError, SettingsError)):
        load_run(tmp_path, "cpu")


def test_tensors_that_do_not_fit_are_named(tmp_path, finished):
    found = checkpoint.find(finished)
    wrong = found.tensors | {"ema.width.body.0.bias": torch.zeros(3)}
    forge(tmp_path, to_bytes(wrong), found.record)
    with pytest.raises(CheckpointError, match=r"ema.width.body.0.bias must be \(8,\).*got \(3,\)"):
        load_run(tmp_path, "cpu")


def test_a_record_that_is_too_large_is_not_read(tmp_path, finished):
    found = checkpoint.find(finished)
    content = (found.path / checkpoint.TENSORS).read_bytes()
    forge(tmp_path, content, found.record | {"more": "x" * (1 << 20)})
    with pytest.raises(CheckpointError, match=r"state.json is larger than 1048576 bytes"):
        load_run(tmp_path, "cpu")
    assert checkpoint.peek(tmp_path) == {}


def test_a_peek_sees_the_record_that_find_would_take(tmp_path, finished):
    found = checkpoint.find(finished)
    for path in (finished, finished / "checkpoints", found.path, found.path / checkpoint.RECORD):
        assert checkpoint.peek(path) == found.record
    assert checkpoint.peek(tmp_path) == checkpoint.peek(tmp_path / "none") == {}


def test_milestones_and_the_newest_are_kept(tmp_path):
    for step in range(1, 8):
        checkpoint.save(tmp_path, step, {}, {"settings": {}}, keep=2, keep_every=3)
    kept = sorted(int(path.name.removeprefix("step-")) for path in tmp_path.iterdir())
    assert kept == [3, 6, 7]
