"""A pytest plugin that runs other people's tests with a patch active.

DMMD_PATCH=alibi_detect pytest -p tests.compat.patched alibi-detect/…/test_mmd_pt.py
"""

import os

from dmmd_kernels import compat

_patch = compat.patch(os.environ.get("DMMD_PATCH", "alibi_detect"))


def pytest_configure(config):
    _patch.__enter__()


def pytest_unconfigure(config):
    _patch.__exit__(None, None, None)
