"""What is compiled on one machine is found on another, and what does not fit there is left."""

import importlib.machinery
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from benchmarks import prewarm

ROOT = Path(__file__).parents[1]
SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]


@pytest.fixture
def carried(tmp_path):
    """A folder with a file that is named like an extension, and says it is of these sources."""
    folder = tmp_path / "carried"
    folder.mkdir()
    (folder / f"_C{SUFFIX}").write_bytes(b"no library")
    (folder / "sources.txt").write_text(prewarm.sources())
    return folder


def test_an_extension_that_loads_is_put_in_its_place(carried, tmp_path, monkeypatch):
    monkeypatch.setattr(prewarm, "why_not_loaded", lambda path: None)
    (said,) = prewarm.unpack(carried, tmp_path, tmp_path / "cache")
    assert said == f"extension: _C{SUFFIX} is in its place"
    assert (tmp_path / f"_C{SUFFIX}").read_bytes() == b"no library"


def test_an_extension_that_does_not_fit_is_left_with_its_reason(carried, tmp_path):
    (said,) = prewarm.unpack(carried, tmp_path, tmp_path / "cache")
    assert f"_C{SUFFIX} does not load here, so it is left: " in said
    (carried / "sources.txt").write_text("others")
    (said,) = prewarm.unpack(carried, tmp_path, tmp_path / "cache")
    assert said.endswith("was made of other sources, so it is left")
    (carried / f"_C{SUFFIX}").rename(carried / "_C.cpython-27-any.so")
    (said,) = prewarm.unpack(carried, tmp_path, tmp_path / "cache")
    assert said.endswith("_C.cpython-27-any.so is of another Python, so it is left")
    assert not list(tmp_path.glob("_C*"))


def test_nothing_carried_is_said(tmp_path):
    assert prewarm.unpack(tmp_path / "none", tmp_path, tmp_path) == [
        f"nothing was carried in {tmp_path / 'none'}"
    ]


def test_lists_of_files_name_the_new_place(tmp_path):
    kernel = tmp_path / "old" / "KEY"
    kernel.mkdir(parents=True)
    (kernel / "k.cubin").write_bytes(b"code")
    children = {"k.cubin": str(kernel / "k.cubin")}
    (kernel / "__grp__k.json").write_text(json.dumps({"child_paths": children}))
    with tarfile.open(tmp_path / "triton.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "old", ".")
    assert prewarm.unpack_cache(tmp_path / "triton.tar.xz", tmp_path / "new") == 1
    listed = json.loads((tmp_path / "new" / "KEY" / "__grp__k.json").read_text())["child_paths"]
    assert listed == {"k.cubin": str(tmp_path / "new" / "KEY" / "k.cubin")}
    assert Path(listed["k.cubin"]).read_bytes() == b"code"


def test_the_hash_of_the_sources_knows_names_and_contents(tmp_path, monkeypatch):
    monkeypatch.setattr(prewarm, "ROOT", tmp_path)
    for name in ("csrc/a.h", "python/b.cpp", "CMakeLists.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    hashes = [prewarm.sources()]
    (tmp_path / "csrc" / "a.h").write_text("y")
    hashes.append(prewarm.sources())
    (tmp_path / "csrc" / "a.h").rename(tmp_path / "csrc" / "c.h")
    assert len({*hashes, prewarm.sources()}) == 3


def test_a_group_that_crashes_is_an_error_with_its_last_words(tmp_path):
    with pytest.raises(SystemExit, match=r"prewarm: nothing:x ended with 1:\n[\s\S]*KeyError"):
        prewarm.launch("nothing:x", tmp_path, 90)


@pytest.mark.slow
def test_a_moved_cache_has_every_kernel(tmp_path, capsys):
    pytest.importorskip("triton", reason="Triton is not installed")
    assert prewarm.launch("smoke:matrix", tmp_path / "first", 90) == 2
    with tarfile.open(tmp_path / "triton.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "first", ".")
    (tmp_path / "first").rename(tmp_path / "gone")
    assert prewarm.unpack_cache(tmp_path / "triton.tar.xz", tmp_path / "second") == 2
    assert prewarm.launch("smoke:matrix", tmp_path / "second", 90) == 0


def test_the_extension_in_its_place_is_named():
    command = [sys.executable, "-m", "benchmarks.prewarm", "--where"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    path = ROOT / "dmmd_kernels" / f"_C{SUFFIX}"
    expected = (0, f"{path}\n") if path.exists() else (1, "there is no extension that loads\n")
    assert (done.returncode, done.stdout) == expected
