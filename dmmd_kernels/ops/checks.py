"""Input checks shared by the ops, and the one batch shape they agree on.

A backend may rely on everything checked here: one dtype, one device, points (n, d) or (B, n, d).
"""

from math import prod

import torch
from torch import Tensor


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
        and z.ndim == x.ndim == 2
        and w.ndim == 1
        and z.shape[1] == x.shape[1]
        and x.shape[0] == w.shape[0]
        and z.dtype == x.dtype == w.dtype
        and z.device == x.device == w.device
        and z.is_floating_point()
    )


def check_points(op: str, **clouds: Tensor) -> None:
    """All are floating (…, n, d) tensors with one d, one dtype and one device.

    Raises:
        TypeError: not a tensor, not floating point, or several dtypes.
        ValueError: fewer than two dimensions, several d, or several devices.
    """
    d = dtype = device = None
    for name, cloud in clouds.items():
        if not isinstance(cloud, Tensor):
            raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(cloud).__name__}")
        shape = cloud.shape
        if len(shape) < 2:
            raise ValueError(
                f"{op}: {name} must be (…, points, d), got {tuple(shape)}; "
                f"one point is {name}[None], one dimension is {name}[:, None]"
            )
        if d is None:
            d, dtype, device = shape[-1], cloud.dtype, cloud.device
            is_fit = cloud.is_floating_point()
        else:
            is_fit = shape[-1] == d and cloud.dtype == dtype and cloud.device == device
        if not is_fit:
            raise _misfit(op, name, clouds)


def _misfit(op: str, name: str, clouds: dict[str, Tensor]) -> Exception:
    """What to raise for the cloud `name`, which is not floating, or unlike the first one."""
    if not clouds[name].is_floating_point():
        return TypeError(f"{op}: {name} must be floating point, got {clouds[name].dtype}")
    names = " and ".join(clouds)
    listed = lambda values: " and ".join(map(str, values))
    shapes = [tuple(c.shape) for c in clouds.values()]
    if len({shape[-1] for shape in shapes}) > 1:
        return ValueError(
            f"{op}: {names} must have points of one dimension d, got {listed(shapes)}"
        )
    dtypes = [c.dtype for c in clouds.values()]
    if len(set(dtypes)) > 1:
        return TypeError(
            f"{op}: {names} must share one dtype, got {listed(dtypes)}; cast with .to()"
        )
    devices = [c.device for c in clouds.values()]
    return ValueError(f"{op}: {names} must be on one device, got {listed(devices)}")


def check_weights(op: str, name: str, w: Tensor, cloud: str, x: Tensor, *, columns: bool) -> None:
    """w is (…, m) for the cloud x (…, m, d), or (…, m, p) where columns are allowed.

    Raises:
        TypeError: not a tensor, or not of the cloud's dtype.
        ValueError: not one weight per point, or on another device.
    """
    if not isinstance(w, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(w).__name__}")
    m = x.shape[-2]
    one_each = w.ndim in (1, x.ndim - 1) and w.shape[-1] == m
    several = columns and w.ndim == x.ndim and w.shape[-2] == m
    if not (one_each or several):
        more = f" or (…, {m}, p)" if columns else ""
        raise ValueError(
            f"{op}: {name} must have one weight per point of {cloud}, (…, {m}){more}, "
            f"got {tuple(w.shape)}"
        )
    if w.dtype != x.dtype:
        raise TypeError(f"{op}: {name} must have the dtype of {cloud}, {x.dtype}, got {w.dtype}")
    if w.device != x.device:
        raise ValueError(
            f"{op}: {name} must be on the device of {cloud}, {x.device}, got {w.device}"
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
        raise ValueError(f"{op}: batch dimensions must broadcast, got {listed}") from None


def one_batch(t: Tensor, batch: torch.Size) -> Tensor:
    """(…, rows, columns) as (B, rows, columns), or (rows, columns) when all blocks share it."""
    if t.ndim == 2 or not batch:
        return t
    if prod(t.shape[:-2]) == 1:
        return t.reshape(t.shape[-2:])
    return t.expand(*batch, *t.shape[-2:]).reshape(-1, *t.shape[-2:])
