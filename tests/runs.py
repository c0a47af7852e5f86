"""Tiny runs of the training program, for tests."""

import hashlib
import json

import torch

from dmmd_kernels import systems
from dmmd_kernels.data.datasets import Dataset
from dmmd_kernels.networks.features import ConvFeatures, Width
from dmmd_kernels.runs import checkpoint
from dmmd_kernels.runs.run import Run
from dmmd_kernels.runs.settings import Settings
from dmmd_kernels.runs.state import State
from dmmd_kernels.systems.dmmd import DMMD
from dmmd_kernels.systems.dmmd.deep_kernel import DeepKernel
from dmmd_kernels.systems.dmmd.settings import DmmdSettings

TINY = Settings(
    backend="reference",
    data_size=200,
    steps=20,
    batch=8,
    samples=40,
    log_every=5,
    save_every=5,
    system=DmmdSettings(
        levels=3, width_hidden=8, sample_levels=3, sample_steps=2, particles=20, clean=50
    ),
)

# The same on handwritten digits with a U-Net, and with every way to be random.
IMAGES_CHANGES = {
    "data": "digits",
    "kernel": "linear",
    "features": "unet",
    "feature_count": 4,
    "feature_width": 4,
    "unet_multipliers": (1, 2),
    "unet_blocks": 1,
    "unet_attention": (4,),
    "dropout": 0.3,
    "flip": True,
    "dequantise": True,
    "micro_levels": 2,
    "optimizer": "adamw",
    "weight_decay": 0.1,
    "warmup": 7,
    "gradient_weight": 1.0,
    "step_rule": "constant",
}
IMAGES = TINY.changed(**IMAGES_CHANGES)

# A run of images so small that its samplers can be written out by hand.
SKETCH = Settings(
    backend="reference",
    system=DmmdSettings(
        features="conv",
        t_min=0.2,
        t_max=0.8,
        sample_levels=3,
        sample_steps=2,
        particles=5,
        clean=9,
        step_rule="constant",
        step_size=0.3,
    ),
)


def sketch(folder, base="linear", **changes):
    """An untrained Run of SKETCH, in float64, with features large enough to move particles."""
    torch.manual_seed(0)
    width = None if base == "linear" else Width(4, start=2.0)
    deep = DeepKernel(ConvFeatures((1, 4, 4), 6, width=2), base, width).double()
    with torch.no_grad():
        deep.features.head.weight *= 30  # untrained features are small, and so would be every slope
    train = torch.randn(11, 1, 4, 4, dtype=torch.float64)
    (folder / "checkpoints").mkdir(exist_ok=True)
    settings = SKETCH.changed(kernel=base, **changes)
    return run_with(deep, settings, folder, Dataset(train, 1.0))


def run_with(deep, settings, folder, dataset):
    """A Run of DMMD with a kernel that no training made."""
    state = State({"ema": deep.eval().requires_grad_(False)})
    return Run(DMMD, settings, folder, state, dataset)


def fit(folder, *, resume=False, **changes):
    settings = TINY.changed(out=str(folder), **changes)
    return systems.fit(settings, resume=resume, progress=False)


def digest(folder):
    """The step and the SHA-256 of the tensors of the newest checkpoint: the whole state."""
    found = checkpoint.find(folder)
    return found.step, hashlib.sha256((found.path / checkpoint.TENSORS).read_bytes()).hexdigest()


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def forge(folder, tensors, record):
    """A checkpoint whose hashes are right whatever it holds, as an attacker would write it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / checkpoint.TENSORS).write_bytes(tensors)
    record = {k: v for k, v in record.items() if k != "record_sha256"}
    record["tensors_sha256"] = hashlib.sha256(tensors).hexdigest()
    text = json.dumps(record, sort_keys=True)
    record["record_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / checkpoint.RECORD).write_text(json.dumps(record))
