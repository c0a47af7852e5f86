"""The README's Python code runs, top to bottom, as a reader would type it."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def test_the_code_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 4
    torch.manual_seed(0)
    exec(compile("\n".join(blocks), "README.md", "exec"), {})


def test_what_it_points_to_exists():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    for module in re.findall(r"python -m dmmd_kernels\.(\w+)", text):
        assert (ROOT / "dmmd_kernels" / f"{module}.py").exists(), module
