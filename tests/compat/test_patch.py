"""compat.patch exchanges, restores after anything, and refuses what it does not know."""

import sys
import types

import pytest
import torch

from dmmd_kernels import compat
from dmmd_kernels.compat import mmd_gan, patching, transferlearning


def copied_file() -> types.ModuleType:
    """A module such as a project has it: a function and a class with the originals' parameters."""
    module = types.ModuleType("mmd")
    source = """
def mix_rbf_mmd2(X, Y, sigma_list, biased=True): return "theirs"
class MMD_loss:
    kernel_type, kernel_mul, kernel_num, fix_sigma = "rbf", 2.0, 5, None
    def guassian_kernel(self, source, target, kernel_mul=2.0, kernel_num=5, fix_sigma=None): pass
    def forward(self, source, target): return "theirs"
class Derived(MMD_loss): pass
"""
    exec(source, vars(module))
    return module


def points():
    return torch.randn(6, 2), torch.randn(7, 2)


def test_functions_and_methods_are_exchanged_and_put_back():
    module = copied_file()
    before, loss = dict(vars(module)), module.Derived()
    x, y = points()
    with compat.patch("mmd_gan", module), compat.patch("transferlearning", module):
        assert module.mix_rbf_mmd2 is mmd_gan.mix_rbf_mmd2
        torch.testing.assert_close(loss.forward(x, y), transferlearning.MMD_loss()(x, y))
    assert dict(vars(module)) == before
    assert loss.forward(x, y) == "theirs"


def test_it_is_put_back_after_an_exception():
    module = copied_file()
    theirs = module.mix_rbf_mmd2
    with pytest.raises(KeyError), compat.patch("mmd_gan", module):
        raise KeyError
    assert module.mix_rbf_mmd2 is theirs


def test_an_exchange_that_fails_half_way_leaves_nothing_behind():
    module = copied_file()
    theirs = module.mix_rbf_mmd2
    swaps = [patching.Swap(module, "mix_rbf_mmd2", 1), patching.Swap(3, "name", 2)]
    with pytest.raises(TypeError), patching.exchanged(swaps):
        pass
    assert module.mix_rbf_mmd2 is theirs


def test_what_was_inherited_is_inherited_again():
    module = copied_file()
    with patching.exchanged([patching.Swap(module.Derived, "forward", lambda *_: 1)]):
        assert "forward" in vars(module.Derived)
    assert "forward" not in vars(module.Derived)


def test_a_module_is_found_under_its_usual_name(monkeypatch):
    module = copied_file()
    monkeypatch.setitem(sys.modules, "mmd", module)
    with compat.patch("mmd_gan"):
        assert module.mix_rbf_mmd2 is mmd_gan.mix_rbf_mmd2


def test_a_copy_with_other_parameters_is_refused():
    module = copied_file()
    module.mix_rbf_mmd2 = lambda X, Y, bandwidths: None
    with (
        pytest.raises(RuntimeError, match=r"mmd\.mix_rbf_mmd2 must take \(X, Y, sigma_list"),
        compat.patch("mmd_gan", module),
    ):
        pass


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (lambda X, Y, sigma_list, biased=False: None, "default biased.*True, got biased=False"),
        (lambda X, Y, sigma_list=(1,), biased=True: None, "got sigma_list"),
        (lambda: None, r"must take \(X, Y, .* got \[\]"),
    ],
)
def test_a_copy_with_other_defaults_or_no_parameters_is_refused(theirs, message):
    module = copied_file()
    module.mix_rbf_mmd2 = theirs
    with pytest.raises(RuntimeError, match=message), compat.patch("mmd_gan", module):
        pass


def test_a_copy_may_write_its_defaults_otherwise():
    ours = lambda x, y, gamma=(0.1, 1.0), kernel=None, count=5: None
    patching._check_parameters("f", lambda x, y, gamma=[0.1, 1], kernel=None, count=5.0: None, ours)
    patching._check_parameters("f", lambda x, y, gamma: None, ours)


@pytest.mark.parametrize(
    ("name", "module", "error", "message"),
    [
        ("numpy", None, ValueError, "name must be one of .*'geomloss'"),
        ("mmd_gan", types.ModuleType("empty"), RuntimeError, "must define one of"),
        ("inn", None, ImportError, "must be imported first, got none of losses"),
    ],
)
def test_what_is_not_known_is_refused(name, module, error, message):
    with pytest.raises(error, match=message), compat.patch(name, module):
        pass


def test_an_unknown_version_is_refused(monkeypatch):
    monkeypatch.setattr(patching.metadata, "version", lambda _: "99.1.0")
    with (
        pytest.raises(RuntimeError, match=r"geomloss must be one of 0.2, 0.3, got 99.1.0"),
        compat.patch("geomloss"),
    ):
        pass


def test_an_absent_package_is_named(monkeypatch):
    monkeypatch.setattr(patching, "_PACKAGES", {"geomloss": ("no-such-distribution", ("0.3",))})
    with pytest.raises(ImportError, match="pip install no-such-distribution"):
        compat.patch("geomloss").__enter__()


def test_every_patch_has_its_shim():
    for name in compat.patchable():
        shim = patching.import_module(f"dmmd_kernels.compat.{name}")
        assert hasattr(shim, "EXCHANGED") != hasattr(shim, "swaps")
        assert all(hasattr(shim, target) for target in getattr(shim, "EXCHANGED", ()))
