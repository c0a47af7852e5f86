"""How a suite says what it compares: `compare` crosses cases with the providers of an op.

All providers of a case run one after another, so that a drift of the machine hits them alike.
"""

import pytest
import torch

from benchmarks.problems import Case
from benchmarks.providers import MODE, providers

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
Shapes = list[tuple[int, ...]]


def compare(op: str, shapes: dict[str, dict[str, Shapes]], kernels=("gaussian",)):
    """Parametrises a benchmark with `case` and `provider`.

    Args:
        op: whose providers.
        shapes: by mode and device, (n, m, d) or (n, m, d, batch). A device without shapes sits out.
        kernels: for every shape in turn.
    """
    cases = [
        Case(device, kernel, *shape)
        for device in DEVICES
        for shape in shapes[MODE].get(device, [])
        for kernel in kernels
    ]
    return pytest.mark.parametrize(
        ("case", "provider"),
        [
            pytest.param(case, provider, id=f"{case}-{provider.name}")
            for case in cases
            for provider in providers(op, case.device)
        ],
    )
