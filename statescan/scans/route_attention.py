"""Attention over the routes of a scan, which has no parameters."""

from torch import Tensor, nn


class RouteAttention(nn.Module):
    """The sum of K routes' outputs, weighed by how much they differ: a `merge` for scans.

    (..., K, C) → (..., C), at every position and channel

        (Σ y_k) · ReLU(std(y) / (mean(y - min y) + 1e-5) - threshold)

    with deviation (unbiased), mean and minimum over the K routes. The quotient does not depend on
    the scale of y: it is √K where one route is above the others, √K / (K - 1) where one is below
    them, else in between, and falls to 0 only where the routes are equal to within 1e-5.

    Args:
        threshold: what the quotient must exceed.

    Source: scan route attention of MHS-VM, arXiv 2406.05992, equations 4 to 7.
    """

    EPS = 1e-5
    full_precision = True  # routes differ by less than what rounding to half precision takes

    def __init__(self, threshold: float = 0.0):
        super().__init__()
        self.threshold = threshold

    def forward(self, y: Tensor) -> Tensor:
        """Merge y (..., K, C), of at least two routes."""
        if y.shape[-2] < 2:
            raise ValueError(f"y has shape {tuple(y.shape)}, expected at least 2 routes to compare")
        above = (y - y.amin(-2, keepdim=True)).mean(-2)
        weight = (deviation(y) / (above + self.EPS) - self.threshold).relu()
        return y.sum(-2) * weight

    def extra_repr(self) -> str:
        """The threshold, for print(model)."""
        return f"threshold={self.threshold}"


def deviation(y: Tensor) -> Tensor:
    """Unbiased standard deviation over K, (..., K, C) → (..., C).

    `torch.std` takes ten times as long on a CPU where it does not reduce the last dimension.
    """
    variance = (y - y.mean(-2, keepdim=True)).square().sum(-2) / (y.shape[-2] - 1)
    alike = variance == 0  # where the root's slope is infinite
    return variance.masked_fill(alike, 1).sqrt().masked_fill(alike, 0)
