"""The authors' mistakes, put into our models so that what their code gave can be compared."""

import torch

from statescan.backbones.groupmamba import ModulatedGroupScan


class _ColumnGradient(torch.autograd.Function):
    """x (B, H, W, C) itself; a gradient in column order is put back as if the map were square."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        H, W = g.shape[1:3]
        by_column = g.transpose(1, 2).flatten(1, 2)
        return by_column.unflatten(1, (H, W)).transpose(1, 2).reshape(g.shape)


def misplace_column_gradients(model):
    """GroupMamba's backward pass of the second and fourth direction: right for square maps only."""
    layers = (m for m in model.modules() if isinstance(m, ModulatedGroupScan))
    for layer in layers:
        for scan in layer.groups[1::2]:
            scan.s6.register_forward_pre_hook(lambda _, x: _ColumnGradient.apply(*x))


MISTAKES = {"groupmamba": misplace_column_gradients}
