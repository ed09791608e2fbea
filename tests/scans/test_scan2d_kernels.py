"""Scan2d with the fused kernels, against itself without them."""

import pytest
import torch
from torch import nn

from statescan.kernels import _triton, dwconv_silu, merge_norm, selective_scan
from statescan.scans import Scan2d, scan2d
from statescan.scans.routes import Windowed, column

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Weighted(nn.Module):
    def forward(self, y):
        return y[..., 0, :] - 2 * y[..., 1, :]


def make(**kwargs):
    torch.manual_seed(0)
    return Scan2d(8, **kwargs).to(DEVICE)


def image():
    x = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    return x.to(DEVICE).requires_grad_()


@pytest.fixture
def fused(monkeypatch):
    """Kernels serve, in Triton's interpreter where there is no GPU; gives the calls and dimensions
    of their first inputs.
    """
    calls = []

    def noted(function):
        def call(first, *args, **kwargs):
            calls.append((function.__name__, first.dim()))
            return function(first, *args, **kwargs)

        return call

    monkeypatch.setattr(_triton, "serves", lambda *tensors: True)
    for function in (dwconv_silu, merge_norm):
        monkeypatch.setattr(scan2d, function.__name__, noted(function))
    return calls


def output_and_gradients(scan, x):
    y = scan(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *scan.parameters()])]


@pytest.mark.parametrize(
    ("kwargs", "apart"),
    [
        ({"conv_bias": True}, True),
        ({"gate": True}, True),
        ({"gate": True, "routes": "atrous"}, False),
        ({"routes": (Windowed(2, pad=True), column)}, False),
        ({"gate": True, "merge": "mean"}, False),
        ({"merge": Weighted()}, False),
        ({"recurrence": "2dmamba"}, False),
        ({"routes": "raster", "state_fusion": (1, 2)}, False),
    ],
    ids=["plain", "gated", "atrous", "padded", "mean", "module", "2dmamba", "state-fusion"],
)
def test_kernels_equal_the_modules(kwargs, apart, monkeypatch, fused):
    scan = make(**kwargs)
    x = image()
    got = output_and_gradients(scan, x)
    assert fused == [("dwconv_silu", 4), ("merge_norm", 4 if apart else 3)]
    monkeypatch.setattr(_triton, "serves", lambda *tensors: False)
    for a, b in zip(got, output_and_gradients(scan, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def hooked(scan):
    for module in (scan.act, scan.norm, scan.s6):
        module.register_forward_hook(lambda module, inputs, output: 2 * output)


@pytest.mark.parametrize(
    ("change", "calls"),
    [
        (lambda scan: setattr(scan, "act", nn.GELU()), []),
        (lambda scan: setattr(scan, "norm", nn.Identity()), ["dwconv_silu"]),
        (lambda scan: setattr(scan, "norm", nn.LayerNorm((4, 8))), ["dwconv_silu"]),
        (lambda scan: setattr(scan.conv, "padding_mode", "circular"), ["merge_norm"]),
        (lambda scan: setattr(scan, "s6", nn.Identity()), ["dwconv_silu", "merge_norm"]),
        (hooked, []),
    ],
    ids=["GELU", "no-norm", "norm-of-more", "circular", "no-scan", "hooks"],
)
def test_other_modules_are_honoured(change, calls, monkeypatch, fused):
    scan = make(gate=True)
    change(scan)
    scan.to(DEVICE)
    x = image()
    y = scan(x)
    assert [name for name, _ in fused] == calls
    monkeypatch.setattr(_triton, "serves", lambda *tensors: False)
    torch.testing.assert_close(y, scan(x), rtol=1e-4, atol=1e-4)


def test_routes_share_one_gradient(monkeypatch, fused):
    """The gradient of the routes' outputs comes to the scan without a copy for each route."""
    strides = []

    def watch(*args, **kwargs):
        y = selective_scan(*args, **kwargs)
        y.register_hook(lambda dy: strides.append(dy.stride(2)))
        return y

    monkeypatch.setattr(scan2d, "selective_scan", watch)
    scan = make()
    scan(image()).sum().backward()
    assert strides == [0]


def test_kernels_compile_without_graph_break(monkeypatch):
    monkeypatch.setattr(_triton, "serves", lambda *tensors: True)
    scan = make(gate=True)
    x = image()
    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(x).square().sum(), [x, *scan.parameters()])
    for a, b in zip(got, output_and_gradients(scan, x)[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
