"""Input checks shared by the ops, and the one batch shape they agree on.

A backend may rely on everything checked here, and on one dtype (dtypes.py): dense tensors on one
device, points (n, d) or (B, n, d).
"""

import warnings
from math import prod

import torch
from torch import Tensor

from dmmd_kernels.parameters import FLOATS, is_jit_tracing, unfit


def check_cloud(op: str, z: Tensor, x: Tensor, w: Tensor, *, columns: bool) -> None:
    """Points z and a cloud x with weights w, as check_points and check_weights say."""
    if not _fits(z, x, w):
        check_points(op, z=z, x=x)
        check_weights(op, "w", w, "x", x, columns=columns)


def _fits(z: Tensor, x: Tensor, w: Tensor) -> bool:
    """Whether z (n, d), x (m, d) and w (m,) pass all checks: the common call, seen quickly."""
    return (
        isinstance(z, Tensor)
        and isinstance(x, Tensor)
        and isinstance(w, Tensor)
        and z.layout is x.layout is w.layout is torch.strided
        and not (z.is_nested or x.is_nested or w.is_nested)
        and z.ndim == x.ndim == 2
        and w.ndim == 1
        and z.shape[1] == x.shape[1]
        and x.shape[0] == w.shape[0]
        and z.dtype == x.dtype == w.dtype
        and z.device == x.device == w.device
        and z.dtype in FLOATS
    )


def refuse_trace(op: str) -> None:
    """
    Raises:
        NotImplementedError: torch.jit.trace records, and would keep what these numbers chose.
    """
    if is_jit_tracing():
        raise NotImplementedError(
            f"{op}: cannot be recorded by torch.jit.trace, which would keep the order of these "
            "numbers for all others; call it outside of what is traced"
        )


def check_points(op: str, **clouds: Tensor) -> None:
    """All are dense floating (…, n, d) tensors with one d and one device.

    Raises:
        TypeError: not a tensor, or one that no op can work with (sparse, complex, integers, …).
        ValueError: fewer than two dimensions, several d, or several devices.
    """
    d = device = None
    for name, cloud in clouds.items():
        check_tensor(op, name, cloud)
        shape = cloud.shape
        if len(shape) < 2:
            raise ValueError(
                f"{op}: {name} must be (…, points, d), got {tuple(shape)}; "
                f"one point is {name}[None], one dimension is {name}[:, None]"
            )
        if d is None:
            d, device = shape[-1], cloud.device
            if len(shape) == 4:
                _warn_of_images(op, name, shape)
        elif shape[-1] != d or cloud.device != device:
            raise _misfit(op, clouds)


def check_numbers(op: str, **tensors: Tensor) -> None:
    """For what must read its points, as tests and rules for widths do."""
    for name, t in tensors.items():
        if t.is_meta:
            raise ValueError(
                f"{op}: {name} must hold numbers, got a meta tensor of shape {tuple(t.shape)}"
            )


def check_tensor(op: str, name: str, t: object) -> None:
    """A dense tensor of a dtype that the ops have.

    Raises:
        TypeError: something else, and what would make it one.
    """
    if not isinstance(t, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(t).__name__}")
    if t.is_nested or t.layout is not torch.strided or t.dtype not in FLOATS:
        wanted, found = unfit(t) or ("", "")
        raise TypeError(f"{op}: {name} must be {wanted}, got {found}")


def _misfit(op: str, clouds: dict[str, Tensor]) -> Exception:
    """What to raise for clouds of several d, or on several devices."""
    names = " and ".join(clouds)
    listed = lambda values: " and ".join(map(str, values))
    shapes = [tuple(c.shape) for c in clouds.values()]
    if len({shape[-1] for shape in shapes}) > 1:
        return ValueError(
            f"{op}: {names} must have points of one dimension d, got {listed(shapes)}"
        )
    devices = [c.device for c in clouds.values()]
    return ValueError(f"{op}: {names} must be on one device, got {listed(devices)}")


def looks_like_images(shape: torch.Size) -> bool:
    """(B, 1 or 3, side, side): B × channels problems of as many points as dimensions."""
    return len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3] > 1


def _warn_of_images(op: str, name: str, shape: torch.Size) -> None:
    """A warning and no error, since (…, n, d) has any number of batch dimensions by contract."""
    if not torch.compiler.is_compiling() and looks_like_images(shape):
        warnings.warn(
            f"{op}: {name} of shape {tuple(shape)} is {shape[0]} × {shape[1]} problems of "
            f"{shape[2]} points; for {shape[0]} images pass {name}.flatten(1)",
            UserWarning,
            stacklevel=4,
        )


def check_weights(op: str, name: str, w: Tensor, cloud: str, x: Tensor, *, columns: bool) -> None:
    """w is (…, m) for the cloud x (…, m, d), or (…, m, p) where columns are allowed.

    Raises:
        TypeError: not a tensor, or one that no op can work with.
        ValueError: not one weight per point, or on another device.
    """
    check_tensor(op, name, w)
    m = x.shape[-2]
    one_each = w.ndim in (1, x.ndim - 1) and w.shape[-1] == m
    several = columns and w.ndim == x.ndim and w.shape[-2] == m
    if not (one_each or several):
        more = f" or (…, {m}, p)" if columns else ""
        raise ValueError(
            f"{op}: {name} must have one weight per point of {cloud}, (…, {m}){more}, "
            f"got {tuple(w.shape)}"
        )
    if w.device != x.device:
        raise ValueError(
            f"{op}: {name} must be on the device of {cloud}, {x.device}, got {w.device}"
        )


def refuse_images(owner: str, **clouds: Tensor) -> None:
    """For losses, where a batch of images is a likelier mistake than B × 1 or B × 3 problems."""
    for name, t in clouds.items():
        check_tensor(owner, name, t)
        if not looks_like_images(t.shape):
            continue
        raise ValueError(
            f"{owner}: {name} must be (…, points, d), got what looks like images, "
            f"{tuple(t.shape)}; pass {name}.flatten(1), or {name}[None] if its first two "
            "dimensions are a batch"
        )


def common_batch(op: str, **tensors: Tensor) -> torch.Size:
    """The batch shape of (…, rows, columns) tensors.

    Raises:
        ValueError: the batch shapes do not broadcast.
    """
    shapes = [t.shape[:-2] for t in tensors.values()]
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        listed = ", ".join(
            f"{name} {tuple(shape)}" for name, shape in zip(tensors, shapes, strict=True)
        )
        raise ValueError(
            f"{op}: batch dimensions must broadcast, got {listed}{_remedy(tensors)}"
        ) from None


def _remedy(tensors: dict[str, Tensor]) -> str:
    """What tensors that do not fit together are likely to be instead, and what to do then."""
    *points, last = tensors.values()
    if "params" in tensors and last.shape[-3:-2] == points[0].shape[-1:]:
        return (
            "; params are for blocks: for a width per dimension divide the points by their widths"
        )
    images = [name for name, t in tensors.items() if looks_like_images(t.shape)]
    return f"; for images pass {images[0]}.flatten(1)" if images else ""


def one_batch(t: Tensor, batch: torch.Size) -> Tensor:
    """(…, rows, columns) as (B, rows, columns), or (rows, columns) when all blocks share it."""
    if t.ndim == 2 or not batch:
        return t
    if prod(t.shape[:-2]) == 1:
        return t.reshape(t.shape[-2:])
    return t.expand(*batch, *t.shape[-2:]).reshape(-1, *t.shape[-2:])
