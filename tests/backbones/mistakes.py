"""The authors' mistakes, put into our models so that what their code gave can be compared."""

import torch

from statescan.backbones.groupmamba import ModulatedGroupScan
from statescan.scans import S6
from statescan.scans.routes import Reverse, column


def misplaced(x):
    """A grid x (B, H, W, C) in column order, put back as if it were square."""
    H, W = x.shape[1:3]
    by_column = x.transpose(1, 2).flatten(1, 2)
    return by_column.unflatten(1, (H, W)).transpose(1, 2).reshape(x.shape)


class _ColumnGradient(torch.autograd.Function):
    """x itself; its gradient is misplaced."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return misplaced(g)


def misplace_column_gradients(model):
    """GroupMamba's backward pass of the second and fourth direction: right for square maps only."""
    layers = (m for m in model.modules() if isinstance(m, ModulatedGroupScan))
    for layer in layers:
        for scan in layer.groups[1::2]:
            scan.s6.register_forward_pre_hook(lambda _, x: _ColumnGradient.apply(*x))


def misplace_columns(model):
    """LocalMamba's directions `v` and `v_flip`: right for square maps only."""
    for s6 in (m for m in model.modules() if isinstance(m, S6)):
        wrong = [route in (column, Reverse(column)) for route in s6.routes]

        def misplace(_, y, wrong=wrong):
            routes = zip(y[0].unbind(3), wrong, strict=True)
            return torch.stack([misplaced(y) if w else y for y, w in routes], dim=3)

        s6.merge.register_forward_pre_hook(misplace)


MISTAKES = {"groupmamba": misplace_column_gradients, "localvmamba": misplace_columns}
