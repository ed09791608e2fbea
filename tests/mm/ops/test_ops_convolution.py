"""Deformable and masked convolution, through mmcv's own functions, against loops over numbers."""

import ops_definitions as definitions
import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import MaskedConv2d, deform_conv2d, modulated_deform_conv2d
from torch.autograd import gradcheck

WINDOWS = [(1, 1, 1), (2, 0, 1), (1, 2, 2)]  # stride, padding, dilation
GROUPS = [(1, 1), (2, 1), (1, 2), (2, 4)]  # groups, deform_groups


def tensors(window, groups, deform_groups):
    stride, padding, dilation = window
    generator = torch.Generator().manual_seed(0)
    sizes = [(n + 2 * padding - 2 * dilation - 1) // stride + 1 for n in (5, 6)]
    taps = deform_groups * 3 * 3

    def random(*shape):
        return torch.randn(*shape, generator=generator).double().requires_grad_()

    x, weight, bias = random(2, 4, 5, 6), random(6, 4 // groups, 3, 3), random(6)
    return x, random(2, 2 * taps, *sizes), random(2, taps, *sizes), weight, bias


def numpy(*inputs):
    return [x.detach().numpy() for x in inputs]


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_deform_conv(window, groups):
    x, offset, _, weight, _ = tensors(window, *groups)
    found = deform_conv2d(x, offset, weight, *window, *groups)
    expected = definitions.deform_conv(*numpy(x, offset, weight), None, *window, *groups)
    torch.testing.assert_close(found.detach(), torch.from_numpy(expected))
    run = lambda *inputs: deform_conv2d(*inputs, *window, *groups)  # noqa: E731
    assert gradcheck(run, (x, offset, weight), fast_mode=True)


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_modulated_deform_conv(window, groups):
    x, offset, mask, weight, bias = tensors(window, *groups)
    found = modulated_deform_conv2d(x, offset, mask, weight, bias, *window, *groups)
    expected = definitions.deform_conv(*numpy(x, offset, weight, mask), *window, *groups)
    expected = torch.from_numpy(expected) + bias.detach()[:, None, None]
    torch.testing.assert_close(found.detach(), expected)
    run = lambda *inputs: modulated_deform_conv2d(*inputs, *window, *groups)  # noqa: E731
    assert gradcheck(run, (x, offset, mask, weight, bias), fast_mode=True)
    assert gradcheck(lambda *i: run(*i, None), (x, offset, mask, weight), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_deform_conv_in_half_precision(dtype):
    x, offset, _, weight, _ = (t.detach().to(dtype) for t in tensors((1, 1, 1), 1, 1))
    found = deform_conv2d(x, offset, weight, 1, 1)
    assert found.dtype == dtype
    expected = deform_conv2d(x.float(), offset.float(), weight.float(), 1, 1)
    torch.testing.assert_close(found, expected.to(dtype))


@pytest.mark.filterwarnings("ignore:This overload of addmm is deprecated:UserWarning")
@pytest.mark.parametrize("kernel", [(1, 1), (3, 5)], ids=str)
def test_masked_conv_is_the_convolution_where_the_mask_is(kernel):
    torch.manual_seed(0)
    padding = tuple(k // 2 for k in kernel)
    convolution = MaskedConv2d(3, 4, kernel, padding=padding).requires_grad_(False)
    x, mask = torch.randn(1, 3, 6, 7), torch.rand(1, 6, 7) > 0.5
    expected = F.conv2d(x, convolution.weight, convolution.bias, padding=padding) * mask
    torch.testing.assert_close(convolution(x, mask), expected)
    assert convolution(x, mask & False).equal(torch.zeros(1, 4, 6, 7))
