"""The Python code of README and guide runs, top to bottom, as a reader would type it."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("file", "least"), [("README.md", 4), ("docs/dropin.md", 3)])
def test_the_code_blocks_run(file, least):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)
    assert len(blocks) >= least
    torch.manual_seed(0)
    exec(compile("\n".join(blocks), file, "exec"), {})


def test_what_it_points_to_exists():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    for module in re.findall(r"python -m dmmd_kernels\.(\w+)", text):
        assert (ROOT / "dmmd_kernels" / f"{module}.py").exists(), module
