"""`python -m dmmd_kernels`: what is installed, and which backends can run here, or why not."""

import os
import platform
import sys

import torch

import dmmd_kernels as dk
from dmmd_kernels.backends import choice, native


def main() -> None:
    if len(sys.argv) > 1:
        sys.exit("usage: python -m dmmd_kernels\nPrograms: dmmd_kernels.train, .sample, .evaluate")
    rows = [
        ("dmmd_kernels", dk.__version__),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("triton", _triton_version()),
        ("cpu", f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()} in torch"),
        ("gpu", _gpus()),
        ("extension", _extension()),
    ]
    for name, value in rows:
        print(f"{name:13} {value}")
    print("\nbackends")
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        for name, reason in choice.report(torch.device(device)).items():
            print(f"  {device:5} {name:10} {reason or 'ready'}")


def _triton_version() -> str:
    try:
        import triton
    except Exception as error:  # a broken Triton raises more than ImportError
        return f"not usable: {error}"
    return triton.__version__


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names) + f" (CUDA {torch.version.cuda})"


def _extension() -> str:
    facts = native.describe()
    return ", ".join(f"{k}: {v}" for k, v in facts.items()) if facts else "not built"


if __name__ == "__main__":
    main()
