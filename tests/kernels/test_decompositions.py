"""Operators taken apart into torch's own compute what the operators do."""

import pytest
import torch
from torch import nn

import statescan

# Shapes: B batch, L positions, K routes, T steps, C channels, N states; H heads, P channels a head.
OPERATORS = torch.ops.statescan
pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec:FutureWarning")


class Operator(nn.Module):
    """One operator as a module, which is what torch exports."""

    def __init__(self, operator, options):
        super().__init__()
        self.operator, self.options = operator, options

    def forward(self, *tensors):
        """The operator of its tensors and options, y alone."""
        y = self.operator(*tensors, *self.options)
        return y[0] if isinstance(y, tuple) else y


def apart(operator, tensors, *options):
    """An operator as a program without it."""
    program = torch.export.export(Operator(operator, options), tensors)
    program = program.run_decompositions(statescan.decompositions())
    assert "statescan" not in program.graph_module.code
    return program.module()


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def decay(*shape):
    return -torch.rand(shape, dtype=torch.float64) * 2


ROUTES = torch.tensor([[0, 1, 2, 3, -1], [3, 2, 1, 0, 0]], dtype=torch.int32)
GRID, STATES = (2, 4, 5, 3), (2, 4, 5, 2)


def scan(*, rank=None, own_x=False):
    """Arguments of the selective scan: B2 L4 K2 C3 N2."""
    x = randn(2, 4, 2, 3) if own_x else randn(2, 4, 3)
    weight = randn(2, 3, rank) if rank else None
    B, C = randn(2, 4, 2, 2), randn(2, 4, 2, 2)
    return x, randn(2, 4, 2, rank or 3), decay(2, 3, 2), B, C, randn(2, 3), weight, randn(2, 3)


def grids(entries):
    """Arguments of a 2-D recurrence with so many entries of dt, A and B: B2 H4 W5 C3 N2."""
    dt, A, B, bias = (
        [make() for _ in range(entries)]
        for make in (
            lambda: randn(*GRID),
            lambda: decay(3, 2),
            lambda: randn(*STATES),
            lambda: randn(3),
        )
    )
    return randn(*GRID), *dt, *A, *B, randn(*STATES), randn(3), *bias


def heads(*, own_x):
    """Arguments of SSD: B2 L4 K2 H4 P3 in 2 groups, N2."""
    x = randn(2, 4, 2, 4, 3) if own_x else randn(2, 4, 4, 3)
    B, C = randn(2, 4, 2, 2, 2), randn(2, 4, 2, 2, 2)
    return x, randn(2, 4, 2, 4), decay(2, 4), B, C, randn(2, 4), randn(2, 4)


def image_state(**missing):
    """Arguments of the non-causal SSD: B2 L7 H2 P3 N5."""
    given = {"D": randn(2), "dt_bias": randn(2)} | missing
    return (
        randn(2, 7, 2, 3),
        randn(2, 7, 2),
        decay(2),
        randn(2, 7, 5),
        randn(2, 7, 5),
        *given.values(),
    )


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "apart"])
@pytest.mark.parametrize("once", [True, False], ids=["once", "any-routes"])
@pytest.mark.parametrize(
    "inputs", [{}, {"rank": 2}, {"own_x": True}], ids=["dt", "low-rank-dt", "own-x"]
)
def test_selective_scan(inputs, once, merge):
    tensors = (*scan(**inputs), ROUTES[:, :4] if once else ROUTES)
    got = apart(OPERATORS.selective_scan, tensors, merge, once)(*tensors)
    torch.testing.assert_close(got, OPERATORS.selective_scan(*tensors, merge, once)[0])


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "apart"])
@pytest.mark.parametrize("own_x", [True, False], ids=["own-x", "shared-x"])
@pytest.mark.parametrize("once", [True, False], ids=["once", "any-routes"])
def test_ssd(own_x, once, merge):
    tensors = (*heads(own_x=own_x), ROUTES[:, :4] if once else ROUTES)
    got = apart(OPERATORS.ssd, tensors, merge, once)(*tensors)
    torch.testing.assert_close(got, OPERATORS.ssd(*tensors, merge, once)[0])


@pytest.mark.parametrize("missing", [{}, {"D": None}, {"dt_bias": None}], ids=str)
def test_noncausal_ssd(missing):
    tensors = image_state(**missing)
    got = apart(OPERATORS.noncausal_ssd, tensors)(*tensors)
    torch.testing.assert_close(got, OPERATORS.noncausal_ssd(*tensors)[0])


@pytest.mark.parametrize(("name", "entries"), [("scan_2dmamba", 1), ("scan_mamba2d", 2)])
def test_2d_recurrences(name, entries):
    operator, tensors = getattr(OPERATORS, name), grids(entries)
    torch.testing.assert_close(apart(operator, tensors)(*tensors), operator(*tensors))


def test_tap_sum():
    tensors, offsets = (randn(*GRID), randn(3, 3)), ([-2, 0, 5], [0, 1, -3])
    got = apart(OPERATORS.tap_sum, tensors, *offsets)(*tensors)
    torch.testing.assert_close(got, OPERATORS.tap_sum(*tensors, *offsets))


def test_an_output_keeps_its_dtype():
    tensors = (*(t if t is None else t.to(torch.bfloat16) for t in scan()), ROUTES)
    wide = (*(t if t is None else t.float() for t in tensors[:-1]), ROUTES)
    got = apart(OPERATORS.selective_scan, tensors, True, False)(*tensors)
    assert got.dtype == torch.bfloat16
    want = OPERATORS.selective_scan(*wide, True, False)[0]
    torch.testing.assert_close(got.float(), want, atol=2e-2, rtol=2e-2)


def test_every_operator_is_taken_apart():
    registered = torch._C._dispatch_get_all_op_names()
    ours = {name.replace("::", ".") + ".default" for name in registered if "statescan::" in name}
    assert ours == {str(operator) for operator in statescan.decompositions()}


def test_a_backward_pass_is_refused():
    backward = statescan.decompositions()[OPERATORS.tap_sum_backward.default]
    with pytest.raises(
        ValueError, match=r"^the program has the backward pass of tap_sum, expected"
    ):
        backward(randn(*GRID), randn(*GRID), randn(3, 3), [0], [0])
