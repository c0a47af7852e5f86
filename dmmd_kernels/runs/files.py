"""Files of a run, written whole or not at all, and the folder held by one training at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmmd_kernels.runs.settings import SettingsError

LOCK = ".lock"


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes beside the place and renames into it: a crash leaves what was there before.

    Raises:
        OSError: the disk is full or the folder not writable; what was there is untouched.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a folder until the end of the block, or of the process however it ends.

    Raises:
        SettingsError: another training holds it.
    """
    try:
        import fcntl
    except ImportError:  # not on this system: then two trainings are not told apart
        yield
        return
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SettingsError(
                f"another training runs in {folder}; wait for its end, or give another --out"
            ) from error
        yield
