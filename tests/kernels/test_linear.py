"""Linear layers: oneDNN where no gradient is kept, torch elsewhere, the same numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from statescan.kernels import linear as module
from statescan.kernels.linear import Linear, linear


@pytest.fixture
def used(monkeypatch):
    """Names of the activations that oneDNN was asked for."""
    asked = []
    onednn = module.ONEDNN_LINEAR
    assert onednn is not None, "this torch has no oneDNN"

    def spy(x, weight, bias, name, *rest):
        asked.append(name)
        return onednn(x, weight, bias, name, *rest)

    monkeypatch.setattr(module, "ONEDNN_LINEAR", spy)
    return asked


@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 5, 6, 7), (1, 1, 7)], ids=str)
def test_equals_torch(used, shape, bias, activation):
    x, weight = torch.randn(shape), torch.randn(4, 7)
    bias = torch.randn(4) if bias else None
    want = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    want = F.gelu(want) if activation else want
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias, activation=activation), want.float())
    assert used == ["gelu" if activation else "none"]
    torch.testing.assert_close(linear(x, weight, bias, activation=activation), want.float())
    assert len(used) == 1


@torch.no_grad()
def test_strided_inputs(used):
    x, weight = torch.randn(2, 7, 5, 6), torch.randn(4, 7)
    want = F.linear(x.movedim(1, 3), weight)
    torch.testing.assert_close(linear(x.permute(0, 2, 3, 1), weight), want)
    assert used == ["none"]


@torch.no_grad()
def test_other_types_and_autocast_are_torchs(used):
    x, weight = torch.randn(3, 7), torch.randn(4, 7)
    assert linear(x.double(), weight.double()).dtype == torch.float64
    assert linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    assert linear(x[:0], weight).shape == (0, 4)
    assert used == []


def test_gradients_are_torchs(used):
    layer = Linear(7, 4)
    x = torch.randn(3, 7, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x, activation="gelu").sum(), x)
    (want,) = torch.autograd.grad(F.gelu(F.linear(x, layer.weight, layer.bias)).sum(), x)
    assert torch.equal(grad, want)
    assert used == []


def test_flops_are_counted_with_and_without_gradient():
    x, weight = torch.randn(2, 5, 7), torch.randn(4, 7)
    for enabled in (True, False):
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(enabled):
            linear(x, weight)
        assert counter.get_total_flops() == 2 * 2 * 5 * 7 * 4


def test_without_onednn(monkeypatch):
    monkeypatch.setattr(module, "ONEDNN_LINEAR", None)
    x, weight = torch.randn(3, 7), torch.randn(4, 7)
    with torch.no_grad():
        assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_unknown_activations_are_refused():
    with pytest.raises(ValueError, match=r"activation is 'tanh', expected one of \(None, 'gelu'\)"):
        linear(torch.zeros(1, 2), torch.zeros(3, 2), activation="tanh")
