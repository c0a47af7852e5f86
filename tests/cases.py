"""What every op is tested on: kernels, clouds, backends and the accuracy rule.

A new kernel, cloud or backend is one line here and is then tested everywhere.
"""

import json
import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import dmmd_kernels as dk
from dmmd_kernels.backends import choice, reference
from dmmd_kernels.kernels import Mixture

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

KERNELS = {
    "gaussian": dk.gaussian(0.7),
    "rational_quadratic": dk.rational_quadratic(0.4, 1.2),
    "laplace": dk.laplace(1.3),
    "imq": dk.imq(0.9),
    "matern1.5": dk.matern(1.5, 1.1),
    "matern2.5": dk.matern(2.5, 0.8),
    "energy": dk.energy(),
    "energy1.5": dk.energy(1.5),
    "linear": dk.linear(),
    "polynomial": dk.polynomial(3),
    "gaussians": dk.mixture([dk.gaussian(s) for s in (0.5, 1, 2, 4)]),
    "everything": 0.5 * dk.gaussian(1.0)
    + dk.rational_quadratic(0.2)
    + 0.1 * dk.linear()
    + dk.polynomial(2, 0.3, 0.5)
    + dk.laplace(2.0),
}
# A kernel with each profile that callers can name, alone.
OF_PROFILE = {
    kernel.terms[0].profile: name
    for name, kernel in KERNELS.items()
    if len(kernel.terms) == 1 and not name.startswith(("linear", "polynomial", "energy1.5"))
}
each_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())


def backends() -> list:
    """Every backend; those that cannot run on this machine are skipped, with their own reason."""
    return [
        pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=f"{name}: {reason}"))
        for name, reason in choice.report(torch.device(DEVICE)).items()
    ]


each_backend = pytest.mark.parametrize("name", backends())

# (n, m, d): nothing, one point, ragged and whole tiles, n ≪ m, d on both sides of vector widths.
SHAPES = [(0, 5, 3), (3, 0, 2), (1, 1, 1), (3, 5, 2), (65, 130, 17), (7, 300, 64), (64, 64, 16)]
# Triton's interpreter takes a minute for one of these, so there the tiles are fewer, not other.
INTERPRETED_SHAPES = [*SHAPES[:4], (33, 20, 17), (3, 18, 64), (32, 16, 16)]
_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
each_backend_and_shape = pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(
            name.values[0],
            shape,
            marks=name.marks,
            id="{}-n{}-m{}-d{}".format(name.values[0], *shape),
        )
        for name in backends()
        for shape in (INTERPRETED_SHAPES if _interpreted and name.values[0] == "triton" else SHAPES)
    ],
)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _normal_clouds(n: int, m: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """Independent normals; half of the smaller cloud is shared, the hard case for distances."""
    g = _generator(seed)
    z, x = torch.randn(n, d, generator=g), torch.randn(m, d, generator=g)
    shared = min(n, m) // 2
    z[:shared] = x[:shared]
    return z, x


def random_clouds(n: int, m: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Normals whose distances do not grow with d: else a gaussian would vanish in float32."""
    z, x = _normal_clouds(n, m, d, seed)
    return z * min(1, 2 / d**0.5), x * min(1, 2 / d**0.5)


def converged_clouds(n: int, m: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Particles within a small fraction of σ of the data, as at the end of a flow."""
    g = _generator(seed)
    x = torch.randn(m, d, generator=g)
    z = x[torch.arange(n) % max(m, 1)] if m else torch.randn(n, d, generator=g)
    return z + 0.03 * torch.randn(n, d, generator=g), x


def distant_clouds(n: int, m: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Mean 10³, spread 1."""
    z, x = _normal_clouds(n, m, d, seed)
    return z + 1e3, x + 1e3


def clustered_clouds(n: int, m: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Few tight clusters far apart, many exact duplicates."""
    g = _generator(seed)
    centres = 5 * torch.randn(4, d, generator=g)
    z = centres[torch.randint(4, (n,), generator=g)]
    x = centres[torch.randint(4, (m,), generator=g)] + 1e-3 * torch.randn(m, d, generator=g)
    return z, x


def digit_clouds(n: int, m: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Real data: scikit-learn's handwritten digits, the first d of their 64 pixels."""
    from sklearn.datasets import load_digits

    pixels = torch.from_numpy(load_digits().data).float() / 16
    order = torch.randperm(len(pixels), generator=_generator(seed))
    return pixels[order[:n], :d], pixels[order[n : n + m], :d]


CLOUDS = {
    "random": random_clouds,
    "converged": converged_clouds,
    "distant": distant_clouds,
    "clustered": clustered_clouds,
    "digits": digit_clouds,
}
each_cloud = pytest.mark.parametrize("clouds", CLOUDS.values(), ids=CLOUDS.keys())


def problem(
    n: int, m: int, d: int, p: int = 1, dtype=torch.float32, clouds: Callable = random_clouds
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z (n, d), x (m, d), v (n, p), w (m, p): two clouds with signed coefficients."""
    z, x = clouds(n, m, d)
    g = _generator(1)
    v, w = torch.randn(len(z), p, generator=g), torch.randn(len(x), p, generator=g)
    return tuple(t.to(DEVICE, dtype) for t in (z, x, v, w))


def compiled_form(name: str, points: Tensor) -> Mixture:
    (mixture,) = KERNELS[name].lower(points).mixtures
    return mixture


# Where an op's coefficients stand among its tensors, and where its mixture does.
_COEFFICIENTS = {"kernel_matrix": ()}
_COEFFICIENTS |= dict.fromkeys(("potential", "potential_and_grad", "tangent"), (2,))
_FORMS = ("quadratic_form", "quadratic_form_and_grad", "quadratic_form_and_grads")
_COEFFICIENTS |= dict.fromkeys(_FORMS, (1, 2))
_PLACE = {"kernel_matrix": 2, "potential": 3, "potential_and_grad": 3, "tangent": 3}
_PLACE |= dict.fromkeys(_FORMS, 3)
_FEW = 64  # entries


def allowed_error(
    exact: Tensor, plain_error: Tensor | float, dtype: torch.dtype, terms: float = 0.0
) -> Tensor:
    """The accuracy rule: 4 times plain torch's largest error, and 16 ulps of the largest entry.

    Where entries are sums that cancel, maybe to 0, 16 ulps of their `terms`: what is left of a sum
    says nothing of its rounding.
    """
    largest = exact.abs().max().clamp(min=terms)
    return 4 * plain_error + 16 * torch.finfo(dtype).eps * largest


def assert_as_accurate(op: str, name: str, tensors: tuple, mixture: Mixture, *rest) -> None:
    """The accuracy rule, for op(*tensors with the mixture in its place, *rest) of backend `name`.

    In the dtype of the call an op may be at most 4 times as wrong as plain torch on differences,
    both against float64, plus 16 ulps of the largest entry (for lucky cases, where plain is exact).
    The largest error of a few sums is small by luck too often: there, plain torch counts with its
    worst of eight draws of the coefficients' signs.
    """
    got = _results(choice.load(name), op, tensors, mixture, rest)
    plain = _results(reference, op, tensors, mixture, rest)
    exact = _in_double(op, tensors, mixture, rest)
    draws = None
    for index, (ours, theirs, truth) in enumerate(zip(got, plain, exact, strict=True)):
        assert ours.shape == truth.shape
        assert ours.dtype == theirs.dtype
        if truth.numel() == 0:
            continue
        plain_error = (theirs - truth).abs().max()
        if truth.numel() < _FEW:
            draws = draws or _errors_of_draws(op, tensors, mixture, rest)
            plain_error = max(plain_error, *(errors[index] for errors in draws))
        allowed = allowed_error(truth, plain_error, ours.dtype)
        assert_within((ours - truth).abs().max(), allowed, op=op, backend=name, result=index)


def assert_within(error: Tensor, allowed: Tensor, **what) -> None:
    """error ≤ allowed; DMMD_RATIOS names a file that gets both, a line of JSON each time."""
    if path := os.environ.get("DMMD_RATIOS"):
        test = os.environ.get("PYTEST_CURRENT_TEST", "").removesuffix(" (call)")
        found = {"test": test, **what, "error": error.item(), "allowed": allowed.item()}
        with open(path, "a") as file:
            file.write(f"{json.dumps(found)}\n")
    assert error <= allowed, f"{what}: max error {error:.2e}, allowed {allowed:.2e}"


def _errors_of_draws(op: str, tensors: tuple, mixture: Mixture, rest: tuple) -> list[list[Tensor]]:
    """Plain torch's largest error in each result, for eight draws of the coefficients' signs."""
    errors = []
    for seed in range(8):
        drawn = list(tensors)
        for place in _COEFFICIENTS.get(op, (2, 3)):
            if (t := tensors[place]) is not None:
                signs = torch.randint(2, t.shape[-2:], generator=_generator(seed)).to(t)
                drawn[place] = t * (2 * signs - 1)
        plain = _results(reference, op, drawn, mixture, rest)
        exact = _in_double(op, drawn, mixture, rest)
        gaps = [(p - e).abs() for p, e in zip(plain, exact, strict=True)]
        errors.append([gap.max() if gap.numel() else gap.sum() for gap in gaps])
    return errors


def _in_double(op: str, tensors, mixture: Mixture, rest: tuple) -> tuple[Tensor, ...]:
    double = [t if t is None else t.double() for t in tensors]
    return _results(reference, op, double, mixture._replace(params=mixture.params.double()), rest)


def _results(module, op: str, tensors, mixture: Mixture, rest: tuple) -> tuple[Tensor, ...]:
    """What a backend's function gives for the tensors with the mixture in its place."""
    at = _PLACE.get(op, 4)
    result = getattr(module, op)(*tensors[:at], mixture, *tensors[at:], *rest)
    return result if isinstance(result, tuple) else (result,)


def every_function(name, z, x, v, w, mixture, skip=False):
    """Every function once, by the accuracy rule."""
    a, b, c = torch.randn_like(z), torch.randn_like(x), torch.randn_like(mixture.params)
    assert_as_accurate("potential", name, (z, x, w), mixture, skip)
    assert_as_accurate("potential_grad", name, (z, x, v, w), mixture, skip)
    assert_as_accurate("params_grad", name, (z, x, v, w), mixture, skip)
    assert_as_accurate("tangents", name, (z, x, v, w, a, b, c), mixture, skip)
    assert_as_accurate("tangents", name, (z, x, v, w, a, None, None), mixture, skip)
    assert_as_accurate("tangent_grad", name, (z, x, v, w, a, b, c), mixture, skip)
    assert_as_accurate("tangent", name, (z, x, w, a, b, c), mixture, skip)
    if mixture.is_radial:
        assert_as_accurate("kernel_matrix", name, (z, x), mixture)
