"""Focal losses, element by element, and their closed gradients.

p: probability of the class, t: target, g: gamma, a: alpha.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .differentiate import full_precision


def _target_weight(weight: Tensor, target: Tensor) -> Tensor | float:
    """`weight[target]` (N,), 1 where the target is no class (background) or no weight is given."""
    if not weight.numel():
        return 1.0
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight[target.clamp(0, len(weight) - 1)], 1.0)


def _is_target(input: Tensor, target: Tensor) -> Tensor:
    return target[:, None] == torch.arange(input.shape[1], device=input.device)


def _sigmoid_parts(input: Tensor, target: Tensor, alpha: float) -> tuple[Tensor, ...]:
    """Whether each logit is its row's target, p of the truth, its logarithm, its alpha."""
    input, positive = full_precision(input), _is_target(input, target)
    signed = torch.where(positive, input, -input)
    factor = torch.full_like(input, 1 - alpha).masked_fill(positive, alpha)
    return positive, signed.sigmoid(), F.logsigmoid(signed), factor


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fills `output` (N, C) with -a (1-p)^g log p of the logits `input` (N, C)."""
    _, p, log_p, factor = _sigmoid_parts(input, target, alpha)
    loss = -factor * (1 - p) ** gamma * log_p
    output.copy_((loss.T * _target_weight(weight, target)).T)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fills `grad_input` (N, C) with the loss's derivative by each logit."""
    positive, p, log_p, factor = _sigmoid_parts(input, target, alpha)
    slope = factor * (1 - p) ** gamma * (gamma * p * log_p - (1 - p))
    grad = torch.where(positive, slope, -slope)
    grad_input.copy_((grad.T * _target_weight(weight, target)).T)


def _softmax_parts(softmax: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows have a target, its probability and logarithm; all (N,)."""
    p = full_precision(softmax).gather(1, target.clamp(min=0)[:, None])[:, 0]
    return target >= 0, p, p.clamp(min=torch.finfo(p.dtype).tiny).log()


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fills `output` (N,) from the probabilities `input` (N, C); 0 where the target is negative."""
    known, p, log_p = _softmax_parts(input, target)
    loss = -alpha * (1 - p) ** gamma * log_p * _target_weight(weight, target)
    output.copy_(torch.where(known, loss, 0.0))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fills `grad_input` (N, C), by the logits, and `buff` (N,), p times the derivative by p."""
    known, p, log_p = _softmax_parts(input, target)
    slope = gamma * (1 - p) ** (gamma - 1) * p * log_p - (1 - p) ** gamma
    buff.copy_(torch.where(known, alpha * slope * _target_weight(weight, target), 0.0))
    grad_input.copy_(buff[:, None] * (_is_target(input, target).to(input) - input))
