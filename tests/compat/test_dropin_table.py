"""The programs that docs/dropin.md times compute the same, before and after."""

import pytest
import torch

from benchmarks import dropin


@pytest.mark.parametrize("name", dropin.FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_before_and_after_are_one_number(name):
    try:
        before, after = dropin.MAKERS[name]()
    except ImportError as error:
        pytest.skip(f"the package of {name} is not installed: {error}")
    x, y = torch.randn(12, 5), torch.randn(12, 5) + 0.5
    torch.testing.assert_close(after(x, y), before(x, y), rtol=1e-3, atol=1e-5)


def test_a_cell_is_measured_in_a_process_of_its_own():
    result = dropin.in_process("guassian_kernel", 1, 20)
    assert result["seconds"] > 0
    assert dropin.cell(result).endswith(f"| {result['mib']:.0f}")


def test_what_did_not_end_is_shown_as_such():
    assert dropin.cell("more than 8 GiB") == "more than 8 GiB | "
