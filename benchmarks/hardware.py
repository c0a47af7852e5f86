"""Rates of the hardware that ops are held against. What this CPU can do is measured: probes.py."""

from dataclasses import dataclass

EXP_SLOTS = {"AVX512": 6, "AVX2": 10, "DEFAULT": 10}  # range reduction, degree 5, scaling


@dataclass(frozen=True)
class Hardware:
    """Rates per second. On a CPU tensor and exps are 0 and an exp is `exp_slots` slots."""

    name: str
    slots: float
    bandwidth: float
    exps: float = 0.0
    tensor: float = 0.0
    exp_slots: float = 1.0


# SMs · lanes · clock: 128 issue slots and 16 exponentials per SM and clock; dense 16-bit tensor.
HARDWARE = {
    "H200": Hardware("H200", 132 * 128 * 1.83e9, 4.8e12, 132 * 16 * 1.83e9, 989e12),
    "H100": Hardware("H100 SXM", 132 * 128 * 1.83e9, 3.35e12, 132 * 16 * 1.83e9, 989e12),
    "A100": Hardware("A100-80", 108 * 128 * 1.41e9, 2.0e12, 108 * 16 * 1.41e9, 312e12),
}
