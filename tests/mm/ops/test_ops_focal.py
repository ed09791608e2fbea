"""Focal losses, through mmcv's own functions, against the formula and numerical gradients."""

import pytest
import torch
from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss
from torch.autograd import gradcheck

ROWS, CLASSES = 6, 4


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(ROWS, CLASSES, generator=generator)).double().requires_grad_()


WEIGHTS = [None, torch.tensor([0.5, 1, 2, 3]).double()]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weight", WEIGHTS, ids=["plain", "weighted"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_sigmoid_focal_loss(logits, gamma, weight, reduction):
    target = torch.tensor([0, 3, CLASSES, 1, 2, CLASSES])  # CLASSES: background
    found = sigmoid_focal_loss(logits, target, gamma, 0.25, weight, "none")
    for n, t in enumerate(target.tolist()):
        for c in range(CLASSES):
            p, alpha = logits[n, c].sigmoid(), 0.25 if t == c else 0.75
            p = p if t == c else 1 - p
            scale = 1 if weight is None or t == CLASSES else weight[t]
            torch.testing.assert_close(found[n, c], -scale * alpha * (1 - p) ** gamma * p.log())

    def run(x):
        return sigmoid_focal_loss(x, target, gamma, 0.25, weight, reduction)

    expected = {"none": found, "mean": found.sum() / ROWS, "sum": found.sum()}[reduction]
    torch.testing.assert_close(run(logits), expected)
    assert gradcheck(run, (logits,))


@pytest.mark.parametrize("weight", WEIGHTS, ids=["plain", "weighted"])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_softmax_focal_loss(logits, gamma, weight):
    target = torch.tensor([0, 3, -1, 1, 2, 2])
    found = softmax_focal_loss(logits, target, gamma, 0.25, weight, "none")
    for n, t in enumerate(target.tolist()):
        p = logits[n].softmax(0)[t]
        scale = 1 if weight is None else weight[t]
        expected = -scale * 0.25 * (1 - p) ** gamma * p.log()
        torch.testing.assert_close(found[n], expected if t >= 0 else 0 * expected)
    for reduction in ("mean", "sum"):
        run = lambda x, r=reduction: softmax_focal_loss(x, target, gamma, 0.25, weight, r)  # noqa: E731
        assert gradcheck(run, (logits,))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_certain_logits_have_finite_losses_and_gradients(gamma):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([0, 0]), gamma, 0.25, None, "none")
    torch.testing.assert_close(loss.detach(), torch.tensor([[0.0, 0], [50, 150]]))
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0], [-0.25, 0.75]]))
