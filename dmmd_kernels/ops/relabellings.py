"""The statistics of the two-sample tests as functions of the labels, in float32 or in float64."""

import operator
from collections.abc import Callable, Iterator, Sequence
from math import gcd

import torch
from torch import Generator, Tensor

from dmmd_kernels.ops.pooled import Pool

_NUMBERS = 2**25  # of labels at a time


class Draws:
    """Random draws in their order, and any of them again: the state before each is kept."""

    def __init__(self, generator: Generator | None, draw: Callable[[Generator, int], Tensor]):
        """`draw`: by the generator, the draw of that number."""
        self._generator = torch.default_generator if generator is None else generator
        self._draw = draw
        self._states: list[Tensor] = []

    def __getitem__(self, number: int) -> Tensor:
        if number == len(self._states):
            self._states.append(self._generator.get_state())
            return self._draw(self._generator, number)
        again = Generator(self._generator.device)
        again.set_state(self._states[number])
        return self._draw(again, number)


class Splits:
    """MMD² of the points that a row of labels names against the others: a statistic of `ties`.

    With m' and n' the sizes over their greatest divisor, s = m' on x and -n' on y is whole, Σs = 0
    and biased MMD² is sᵀKs / (n m')². Unbiased, each sample's own mean leaves its trace out.
    """

    def __init__(
        self, pool: Pool, labels: Callable[[Sequence[int]], Tensor], n: int, estimator: str
    ) -> None:
        """`labels`: for numbers of labellings, (p, N) of bool, n of each row true."""
        self._pool, self._labels, self._estimator = pool, labels, estimator
        self._n, self._m = n, pool.size - n
        least = 1 if estimator == "biased" else 2
        if min(self._n, self._m) < least:
            raise ValueError(
                f"mmd2_of_splits: both sides of a split must hold at least {least} points for the "
                f"{estimator} estimator, got {self._n} and {self._m}"
            )

    def __call__(self, numbers: Sequence[int], exact: bool) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if exact else self._pool.dtype
        found = [self._of_block(self._labels(some), dtype) for some in _blocks(numbers, self._pool)]
        values, masses = zip(*found, strict=True)
        return torch.cat(values), torch.cat(masses)

    def _of_block(self, labels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        n, m = self._n, self._m
        up, down = m // gcd(n, m), n // gcd(n, m)
        both = up + down
        in_x = self._pool.merged(labels, dtype)
        s = in_x * both - down * self._pool.counts.to(dtype)[:, None]
        # |s| is up on x and down on y
        sums = self._pool.sums(s, 2 * up * down / both, (up - down) / both)
        biased, mass = sums.forms / (n * up) ** 2, sums.mass / (n * up) ** 2
        if self._estimator == "biased":
            return biased, mass
        traces_x, traces = self._pool.traces(in_x)
        sums_x = (sums.forms + 2 * down * sums.mixed + down**2 * sums.total) / both**2
        sums_y = (sums.forms - 2 * up * sums.mixed + up**2 * sums.total) / both**2
        more_x = (sums_x / n - traces_x) / (n * (n - 1))
        more_y = (sums_y / m - (traces - traces_x)) / (m * (m - 1))
        return biased + (more_x + more_y), mass * (1 + 6 / (n - 1) + 6 / (m - 1))


class Flips:
    """1/(n(n - 1)) Σ_{i ≠ j} ε_i ε_j h_ij of the wild bootstrap: a statistic of `ties`.

    With s = ε on x and -ε on y, Σ ε_i ε_j h_ij over all i and j is sᵀKs.
    """

    def __init__(self, pool: Pool, count: int, generator: Generator | None, itself: Tensor) -> None:
        """`count` labellings, the first of which has ε = 1; `itself`: Σ h_ii in float64."""
        n, device = pool.size // 2, "cpu" if generator is None else generator.device
        self._pool, self._itself, self._step = pool, itself, at_once(pool.size)

        def signs(g: Generator, block: int) -> Tensor:
            some = min(self._step, count - block * self._step)
            flips = torch.randint(2, (n, some), generator=g, device=device) * 2 - 1
            if block == 0:
                flips[:, 0] = 1
            return flips

        self._draws = Draws(generator, signs)

    def __call__(self, numbers: Sequence[int], exact: bool) -> tuple[Tensor, Tensor]:
        dtype, n = torch.float64 if exact else self._pool.dtype, self._pool.size // 2
        values, masses = [], []
        for signs in self._signs(numbers):
            s = self._pool.merged(torch.cat([signs, -signs]).T, dtype)
            sums = self._pool.sums(s, 1, 0)
            values.append((sums.forms - self._itself) / (n * (n - 1)))
            masses.append(sums.mass / (n * (n - 1)))
        return torch.cat(values), torch.cat(masses)

    def _signs(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        """ε of these numbers, which must ascend, (n, p) at a time."""
        for block in range(max(numbers) // self._step + 1):
            own = [i % self._step for i in numbers if i // self._step == block]
            if own:
                yield self._draws[block][:, own]


def permuted(n: int, size: int, generator: Generator | None) -> Callable[[Sequence[int]], Tensor]:
    """The labels of random relabellings by number, (p, size); number 0 is the first n points."""
    device = "cpu" if generator is None else generator.device
    draws = Draws(generator, lambda g, _: torch.randperm(size, generator=g, device=device))

    def labels(numbers: Sequence[int]) -> Tensor:
        in_x = torch.zeros(len(numbers), size, dtype=torch.bool, device=device)
        for row, number in zip(in_x, numbers, strict=True):
            order = draws[number]
            row[order[:n] if number else slice(n)] = True
        return in_x

    return labels


def generator_of(op: str, generator: Generator | int | None) -> Generator | None:
    """A generator as it is; of a number, a new one with that seed."""
    if generator is None or isinstance(generator, Generator):
        return generator
    try:
        seed = operator.index(generator)
    except TypeError:
        raise TypeError(
            f"{op}: generator must be a torch.Generator, a whole number as its seed, or None, got "
            f"{type(generator).__name__}"
        ) from None
    return Generator().manual_seed(seed)


def at_once(size: int) -> int:
    """How many labellings of so many points are summed at a time."""
    return max(16, _NUMBERS // max(size, 1))


def _blocks(numbers: Sequence[int], pool: Pool) -> Iterator[Sequence[int]]:
    step = at_once(pool.size)
    for start in range(0, len(numbers), step):
        yield numbers[start : start + step]
