"""Exchanges functions of other people's modules, and puts them back."""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, metadata
from types import ModuleType
from typing import Any, NamedTuple

_MISSING = object()

# Installed packages, with the versions whose internals are known, and families of copied files,
# with the names under which such a file is usually imported.
_PACKAGES = {
    "alibi_detect": ("alibi-detect", ("0.13",)),
    "geomloss": ("geomloss", ("0.2", "0.3")),
    "ignite": ("pytorch-ignite", ("0.5",)),
    "sbi": ("sbi", ("0.27",)),
    "torch_fidelity": ("torch-fidelity", ("0.4",)),
    "torchmetrics": ("torchmetrics", ("1.3", "1.5", "1.7", "1.8", "1.9")),
}
_COPIES = {
    "cmmd": ("distance",),
    "dk_tst": ("utils",),
    "domainbed": ("domainbed.algorithms",),
    "inn": ("losses",),
    "mmd_gan": ("mmd", "src.models.components.mmd"),
    "mmd_loss_pytorch": ("mmd_loss",),
    "tllib": ("tllib.alignment.dan", "tllib.alignment.jan"),
    "transferlearning": ("mmd", "mmd_pytorch", "loss_funcs.mmd", "loss_funcs.lmmd"),
}


class Swap(NamedTuple):
    """The attribute `name` of a module or class, or the entry of a dict, becomes `new`."""

    owner: Any
    name: str
    new: Any


def patchable() -> list[str]:
    """The names that `patch` takes."""
    return sorted([*_PACKAGES, *_COPIES])


@contextmanager
def patch(name: str, module: ModuleType | str | None = None) -> Iterator[None]:
    """Within the block, the library computes its MMD with dmmd_kernels.

    Everything is put back at the end, also after an exception. The exchange is seen by the whole
    process, and by code that looks the function up when it calls it: a function that was imported
    by name before, `from mmd import mix_rbf_mmd2`, stays what it was, so give `module=` the module
    that imported it. Methods are exchanged in their class, so objects made before follow.

    Args:
        name: one of `patchable()`.
        module: for code that is copied and not installed, the module to patch, or its name. When
            None, those of the usual names that have been imported.

    Raises:
        ValueError: an unknown name.
        ImportError: nothing of that name is installed or imported.
        RuntimeError: a version, or a copy with other parameters or defaults, whose behaviour is not
            known.
    """
    if name in _PACKAGES:
        _check_version(name)
        swaps = import_module(f"dmmd_kernels.compat.{name}").swaps()
    elif name in _COPIES:
        shim = import_module(f"dmmd_kernels.compat.{name}")
        swaps = [swap for copy in _copies(name, module) for swap in _swaps_of(copy, shim, name)]
        if not swaps:
            raise RuntimeError(
                f"compat.patch: the module must define one of {sorted(shim.EXCHANGED)} for "
                f"{name!r}, got none"
            )
    else:
        raise ValueError(f"compat.patch: name must be one of {patchable()}, got {name!r}")
    with exchanged(swaps):
        yield


@contextmanager
def exchanged(swaps: list[Swap]) -> Iterator[None]:
    """Applies the swaps, and undoes them in reverse order whatever happens."""
    done: list[tuple[Any, str, Any]] = []
    try:
        for owner, name, new in swaps:
            entries: Mapping = owner if isinstance(owner, dict) else vars(owner)
            done.append((owner, name, entries.get(name, _MISSING)))
            _put(owner, name, new)
        yield
    finally:
        for owner, name, old in reversed(done):
            _put(owner, name, old)


def _put(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[name] = value
    elif value is _MISSING:  # it was inherited
        delattr(owner, name)
    else:
        setattr(owner, name, value)


def _check_version(name: str) -> None:
    distribution, known = _PACKAGES[name]
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise ImportError(
            f"compat.patch: {distribution} must be installed to be patched, got no such package; "
            f"run `pip install {distribution}`"
        ) from None
    if ".".join(version.split(".")[:2]) not in known:
        raise RuntimeError(
            f"compat.patch: {distribution} must be one of {', '.join(known)}, got {version}; "
            f"import from dmmd_kernels.compat.{name} instead"
        )


def _copies(name: str, module: ModuleType | str | None) -> list[ModuleType]:
    if module is not None:
        return [import_module(module) if isinstance(module, str) else module]
    found = [sys.modules[usual] for usual in _COPIES[name] if usual in sys.modules]
    if not found:
        raise ImportError(
            f"compat.patch: {name!r} is a family of copied files and its module must be imported "
            f"first, got none of {', '.join(_COPIES[name])}; pass it as module="
        )
    return found


def _swaps_of(copy: ModuleType, shim: ModuleType, name: str) -> list[Swap]:
    """Functions are exchanged in the module, methods in their class, which subclasses inherit."""
    swaps = []
    for target, methods in shim.EXCHANGED.items():
        theirs = getattr(copy, target, None)
        if theirs is None:
            continue
        ours = getattr(shim, target)
        if not methods:
            _check_parameters(f"{copy.__name__}.{target}", theirs, ours)
            swaps.append(Swap(copy, target, ours))
        for method in methods:
            label = f"{copy.__name__}.{target}.{method}"
            _check_parameters(label, getattr(theirs, method, None), getattr(ours, method))
            swaps.append(Swap(theirs, method, getattr(ours, method)))
    return swaps


def _check_parameters(label: str, theirs: Callable | None, ours: Callable) -> None:
    """A copy that was changed takes other parameters; then what it computes is not known.

    It may lack the last ones, and need what has a default here.
    """
    want = inspect.signature(ours).parameters
    got = {} if theirs is None else inspect.signature(theirs).parameters
    if not got or list(got) != list(want)[: len(got)]:
        raise RuntimeError(f"compat.patch: {label} must take ({', '.join(want)}), got {list(got)}")
    for name, parameter in got.items():
        default = parameter.default
        if default is not parameter.empty and not _alike(default, want[name].default):
            raise RuntimeError(
                f"compat.patch: {label} must have the default {want[name]}, got {parameter}; "
                f"import from dmmd_kernels.compat instead where that is meant"
            )


def _alike(theirs: Any, ours: Any) -> bool:
    """Whether the defaults mean the same; a list and a tuple of the same do."""
    if isinstance(theirs, (list, tuple)) and isinstance(ours, (list, tuple)):
        return list(theirs) == list(ours)
    return theirs is ours or (type(ours) in (bool, int, float, str) and bool(theirs == ours))
