"""Which values of a statistic are equal, and which are larger, whatever was rounded.

Many values are summed in the points' dtype, then those near the one that the others are compared
with again in float64, whose roundings are bounded. What differs by no more than that bound counts
as equal. How near is near is measured: the float64 values tell what rounding did to the first ones,
in units of their masses, and the others are given sixteen times the worst of it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_FIRST = 16  # values that are summed again at least
_MARGIN = 16  # times the worst rounding seen among them

# (which labellings, whether in float64) → their values and the masses, in units of which they round
Statistic = Callable[[Sequence[int], bool], tuple[Tensor, Tensor]]


class Comparison(NamedTuple):
    """For each value whether it is above the chosen one, and whether equal to it: (p,) of bool."""

    above: Tensor
    equal: Tensor

    @property
    def at_least(self) -> Tensor:
        return self.above | self.equal


class Values:
    """Values of a statistic for `count` labellings.

    Attributes:
        values: (count,), float64.
    """

    def __init__(self, statistic: Statistic, count: int, roundings: float, exact: bool) -> None:
        """`roundings`: how many of float64 an exact value may be off by, over its mass."""
        self._statistic = statistic
        self.values, self._masses = statistic(list(range(count)), exact)
        if not exact and not self.are_finite():  # what overflows need not in float64
            self.values, self._masses = statistic(list(range(count)), exact := True)
        self._is_exact = torch.full_like(self.values, exact, dtype=torch.bool)
        self._unit = roundings * torch.finfo(torch.float64).eps / 2
        self._error = 0.0  # the worst of the first sums, over the mass

    def are_finite(self) -> bool:
        return bool(self.values.isfinite().all())

    def compared_with(self, number: int) -> Comparison:
        """With the value of that labelling."""
        return self._compared(lambda: number)

    def compared_with_rank(self, rank: int) -> Comparison:
        """With the value of that rank, the largest being 0."""
        return self._compared(lambda: int(self.values.argsort(descending=True)[rank]))

    def _compared(self, chosen: Callable[[], int]) -> Comparison:
        size = 0
        while not self._is_settled(at := chosen()):
            nearest = (self.values - self.values[at]).abs().argsort()
            size = max(_FIRST, 2 * size)
            self._sum_again(nearest[:size])
        excess = self.values - self.values[at]
        slack = self._unit * (self._masses + self._masses[at])
        return Comparison(excess > slack, excess.abs() <= slack)

    def _is_settled(self, at: int) -> bool:
        """Whether every value that was not summed again is certainly above or below that one."""
        if not self._is_exact[at]:
            return False
        reach = _MARGIN * self._error * self._masses + 2 * self._unit * self._masses.max()
        is_far = (self.values - self.values[at]).abs() > reach
        return bool((self._is_exact | is_far).all())

    def _sum_again(self, numbers: Tensor) -> None:
        numbers = numbers[~self._is_exact[numbers]].sort().values
        if not len(numbers):
            return
        values, masses = self._statistic(numbers.tolist(), True)
        errors = (values - self.values[numbers]).abs() / masses
        self._error = max(self._error, errors.nan_to_num().max().item())
        self.values[numbers], self._masses[numbers] = values, masses
        self._is_exact[numbers] = True


def beside(values: Values, at: int, dtype: torch.dtype) -> Tensor:
    """The values in that dtype, (count,): above, equal to or below the value `at` as they are."""
    low = values.values.to(dtype)
    if not values.are_finite():
        return low
    like = values.compared_with(at)
    pivot = low[at]
    below = torch.nextafter(pivot, pivot.new_tensor(-torch.inf))
    low = torch.where(like.above, low.maximum(pivot), low.minimum(below))
    return torch.where(like.equal, pivot, low)
