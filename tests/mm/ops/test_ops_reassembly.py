"""Deformable attention, CARAFE and PSANet's masks, through mmcv, against loops over numbers."""

import mmcv._ext
import ops_definitions as definitions
import pytest
import torch
from mmcv.ops import carafe, carafe_naive
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from mmcv.ops.psa_mask import psa_mask
from torch.autograd import gradcheck


def random(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_deformable_attention():
    shapes = [(3, 4), (2, 2)]
    value = random(0, 2, 16, 2, 3).requires_grad_()
    locations = (1.6 * random(1, 2, 3, 2, 2, 2, 2) - 0.3).requires_grad_()  # some outside 0..1
    weights = random(2, 2, 3, 2, 2, 2).requires_grad_()
    levels = torch.tensor(shapes), torch.tensor([0, 12])

    def run(value, locations, weights):
        attend = MultiScaleDeformableAttnFunction.apply
        return attend(value, *levels, locations, weights, 64)

    numbers = [x.detach().numpy() for x in (value, locations, weights)]
    expected = definitions.deform_attention(numbers[0], shapes, *numbers[1:])
    inputs = (value, locations, weights)
    torch.testing.assert_close(run(*inputs).detach(), torch.from_numpy(expected))
    assert gradcheck(run, inputs)


@pytest.mark.parametrize(("kernel", "groups", "scale"), [(3, 1, 2), (5, 2, 2), (1, 4, 3)])
def test_carafe(kernel, groups, scale):
    features = random(0, 2, 4, 3, 4).requires_grad_()
    masks = random(1, 2, groups * kernel**2, 3 * scale, 4 * scale).requires_grad_()
    numbers = features.detach().numpy(), masks.detach().numpy()
    expected = torch.from_numpy(definitions.carafe(*numbers, kernel, groups, scale))
    for run in (carafe, carafe_naive):
        found = run(features, masks, kernel, groups, scale)
        torch.testing.assert_close(found.detach(), expected)
    run = lambda *inputs: carafe(*inputs, kernel, groups, scale)  # noqa: E731
    assert gradcheck(run, (features, masks), fast_mode=True)


def test_naive_carafe_has_the_gradient_of_carafe():
    features, masks = random(0, 1, 2, 3, 3).requires_grad_(), random(1, 1, 9, 6, 6).requires_grad_()
    output = carafe(features, masks, 3, 1, 2)
    expected = torch.autograd.grad(output, (features, masks), output)
    filled = torch.empty_like(features), torch.empty_like(masks)
    # By hand: on a CPU mmcv's own function refuses.
    mmcv._ext.carafe_naive_backward(output, features, masks, *filled, 3, 1, 2)
    torch.testing.assert_close(filled, expected)


@pytest.mark.parametrize("mask_size", [(3, 3), (5, 7), (9, 11)], ids=str)
@pytest.mark.parametrize("kind", ["collect", "distribute"])
def test_psa_mask(kind, mask_size):
    x = random(0, 2, mask_size[0] * mask_size[1], 4, 5).requires_grad_()
    number = {"collect": 0, "distribute": 1}[kind]
    expected = torch.from_numpy(definitions.psa_mask(x.detach().numpy(), kind, mask_size))
    torch.testing.assert_close(psa_mask(x, number, mask_size).detach(), expected)
    assert gradcheck(lambda x: psa_mask(x, number, mask_size), (x,), fast_mode=True)
