"""Parameters of kernels: numbers, tensors, and formulas of tensors.

A tensor may change in place after the kernel was made, as by a step of an optimiser or by `.to()`
of a module. So nothing computed from it is kept: a `Formula` is, and each call reads it anew.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import inf, nan
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import unwrap_if_dead

PLAIN = (Tensor, torch.nn.Parameter)
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
Parameter = float | Tensor


class Formula(NamedTuple):
    """A number that depends on tensors: made of them at every call, as they may change in place."""

    make: Callable[..., Any]
    of: tuple[Any, ...]

    def given(self, value: Callable[[Any], Any]) -> Any:
        return self.make(*map(value, self.of))

    def __float__(self) -> float:
        return float(self.given(lambda v: float(v)))


def is_jit_tracing() -> bool:
    """Whether torch.jit.trace records the code: sizes are tensors then."""
    return not torch.compiler.is_compiling() and torch._C._is_tracing()


def is_tracing() -> bool:
    """Whether torch is transforming or recording the code, so that no tensor may be kept."""
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    )


def is_learned(value: Any) -> bool:
    """Whether a call must read it anew."""
    return isinstance(value, Tensor | Formula)


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with change(v) in place of every number and tensor v that it is made of."""
    if isinstance(value, Formula):
        return Formula(value.make, tuple(changed(v, change) for v in value.of))
    return value if value is None else change(value)


def tensors_of(value: Any) -> list[Tensor]:
    """Those that a value of a term depends on."""
    if isinstance(value, Formula):
        return [tensor for v in value.of for tensor in tensors_of(v)]
    return [value] if isinstance(value, Tensor) else []


def are_equal(a: Any, b: Any) -> bool:
    """Whether they are the same now."""
    if a is b:
        return True
    if isinstance(a, Formula) and isinstance(b, Formula):
        return a.make is b.make and all(map(are_equal, a.of, b.of))
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return type(a) is type(b) and a == b
    alike = (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
    return alike and not a.is_meta and torch.equal(a, b)


def now(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """What a value of a term is at this moment, in the dtype or a wider one."""
    if isinstance(value, Formula):
        return value.given(lambda v: now(v, dtype, device))
    if not isinstance(value, Tensor):
        return value
    if value.is_meta and device.type != "meta":
        raise ValueError(
            f"kernel: parameters must hold numbers, got a meta tensor of shape {tuple(value.shape)}"
        )
    return value.to(device, torch.promote_types(value.dtype, dtype))


def table(
    rows: Sequence[tuple], terms: Sequence[object], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The rows (λ, scale, a) of the terms: (L, 3), or (…, L, 3) with parameters of batch shape."""
    learned = [now(v, dtype, device) for row in rows for v in row if is_learned(v)]
    numbers = tuple(None if is_learned(v) else v for row in rows for v in row)
    if max([0.0, *[v for v in numbers if v is not None]]) > torch.finfo(dtype).max:
        kernel = " + ".join(map(str, terms))
        raise ValueError(f"{kernel}: 1/σ² must fit in {dtype}; rescale points and widths")
    build = _table_of_numbers if is_tracing() or not learned else _kept_table_of_numbers
    made, places = build(numbers, dtype, device)
    for place, value in zip(places, learned, strict=True):
        value = value.to(dtype)
        made = torch.where(place, value[..., None, None] if value.ndim else value, made)
    return made


def _table_of_numbers(
    numbers: tuple[float | None, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(L, 3), and where a learned value belongs, (L, 3) of bool for each None."""
    rows = lambda values, dtype: torch.tensor(values, dtype=dtype, device=device).view(-1, 3)
    values = [0.0 if number is None else number for number in numbers]
    if torch.compiler.is_dynamo_compiling():  # torch.tensor would be compiled anew for each value
        one = torch.ones((), dtype=torch.float64, device=device)
        made = torch.stack([one * value for value in values]).to(dtype).view(-1, 3)
    else:
        made = rows(values, dtype)
    learned = [i for i, number in enumerate(numbers) if number is None]
    places = [rows([i == place for i in range(len(numbers))], torch.bool) for place in learned]
    return made, tuple(places)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _kept_table_of_numbers(*key):
    return _table_of_numbers(*key)


def half_over_square(sigma: Any) -> Any:
    return 0.5 / sigma**2


def one_over_square(sigma: Any) -> Any:
    return 1.0 / sigma**2


def twice_over_square(nu: float, sigma: Any) -> Any:
    return 2 * nu / sigma**2


def half_over_product(alpha: Any, sigma: Any) -> Any:
    return 0.5 / (alpha * sigma**2)


def made_of(make: Callable[..., Any], *parameters: Any) -> Any:
    """make(*parameters), at once where all are numbers."""
    return Formula(make, parameters) if any(map(is_learned, parameters)) else make(*parameters)


def scale_of(owner: str, names: str, make: Callable[..., Any], *parameters: Parameter) -> Any:
    try:
        scale = made_of(make, *parameters)
    except ArithmeticError:  # σ² is 0 or infinite
        scale = nan
    if isinstance(scale, float) and not 0 < scale < inf:
        values = " and ".join(map(str, parameters))
        raise ValueError(
            f"{owner}: {names} must leave 1/σ² above zero and finite, got {values}; "
            "rescale points and widths"
        )
    return scale


def unfit(t: Tensor) -> tuple[str, str] | None:
    """What a tensor that no op can work with would have to be, and what it is, in words."""
    if t.is_nested:
        return "dense", "a nested tensor; pad it with torch.nested.to_padded_tensor"
    if t.layout is not torch.strided:
        return "dense", f"a tensor of layout {t.layout}; pass .to_dense()"
    if t.is_quantized:
        return "floating point", f"a quantised tensor of {t.dtype}; pass .dequantize()"
    if t.is_complex():
        return "real", f"{t.dtype}; pass torch.view_as_real(…).flatten(-2)"
    if t.dtype not in FLOATS:
        return "floating point", f"{t.dtype}; pass .float()"
    return None


def number(owner: str, name: str, value: Any) -> Parameter:
    """A float, or a tensor that has a place on the real line."""
    if type(value) is float:
        return value
    if isinstance(value, Tensor):
        if (found := unfit(value)) is not None:
            raise TypeError(
                f"{owner}: {name} must be a dense floating-point tensor, got {found[1]}"
            )
        return value
    is_bool = isinstance(value, bool) or str(getattr(value, "dtype", None)) == "bool"
    if is_bool or not hasattr(type(value), "__float__"):
        raise TypeError(f"{owner}: {name} must be a number or a tensor, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        return inf
    except (TypeError, ValueError) as error:
        raise TypeError(f"{owner}: {name} must be one number or a tensor: {error}") from error


def readable(value: Parameter) -> list[float]:
    """The number, or the least and the largest of a tensor on the CPU; none where they are hidden.

    A width of 0 or NaN in a tensor is not refused: what is computed from data may be one, and the
    result is then NaN. So those two are not among what is read.
    """
    if not isinstance(value, Tensor):
        return [value]
    if type(value) not in PLAIN or not value.is_cpu or value.numel() == 0:
        return []
    if is_tracing():
        return []
    value = unwrap_if_dead(value).detach()
    ends = [value.item()] if value.numel() == 1 else [end.item() for end in value.aminmax()]
    return [end for end in ends if end != 0 and end == end]


def positive(owner: str, name: str, value: Any) -> Parameter:
    value = number(owner, name, value)
    is_tensor = isinstance(value, Tensor)
    if is_tensor and any(least < 0 for least in readable(value)):
        raise ValueError(f"{owner}: {name} must be positive, got {value.detach().tolist()}")
    if not is_tensor and not 0 < value < inf:
        raise ValueError(f"{owner}: {name} must be a positive finite number, got {value}")
    return value


def shown(value: Parameter | None) -> str:
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)}"
    return "…" if torch.compiler.is_compiling() else repr(value)  # a symbol has no digits
