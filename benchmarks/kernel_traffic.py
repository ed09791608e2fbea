"""Bytes that a call moves at least, counted on tensors without data."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from statescan.kernels import _triton

NO_TRAFFIC = ("empty", "new_empty", "empty_strided", "empty_like", "new_empty_strided")


class Phase(NamedTuple):
    """Forward or backward of a call: what runs it, and the tensors that it must read or write.

    The first of them in the first phase is x, whose elements the bytes are counted for.
    """

    run: Callable[[], object]
    needed: list[Tensor]


def nbytes(tensors) -> int:
    """Bytes of the distinct tensors among some values."""
    distinct = {id(t): t for t in tensors if isinstance(t, Tensor)}
    return sum(t.nbytes for t in distinct.values())


class TorchTraffic(TorchDispatchMode):
    """Bytes that torch's own operators read and write, by their names; views move nothing."""

    def __init__(self):
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operator and count its tensors."""
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        aliases = [r.alias_info for r in func._schema.returns if r.alias_info]
        view = any(not alias.is_write for alias in aliases)
        if not view and name not in NO_TRAFFIC:
            self.bytes[name] += nbytes(tree_leaves((args, kwargs, None if aliases else result)))
        return result


def measure(make: Callable[[], dict[str, Phase]]) -> dict[str, dict[str, float]]:
    """Bytes an element of x of each phase: of every kernel and operator, the sum, and the floor."""
    moved: Counter[str] = Counter()

    def note(kernel, grid, *arguments, **options) -> None:
        moved[kernel.__name__ + " kernel"] += nbytes(arguments)

    table = {}
    with mock.patch.object(_triton, "launch", note), torch.no_grad():
        phases = make()
        elements = next(iter(phases.values())).needed[0].numel()
        for name, phase in phases.items():
            moved.clear()
            with TorchTraffic() as operators:
                phase.run()
            counted = moved + operators.bytes
            row = {k: v for k, v in counted.items() if v > elements / 100}
            row |= {"all": sum(counted.values()), "floor": sum(t.nbytes for t in phase.needed)}
            table[name] = {k: round(v / elements, 2) for k, v in row.items()}
    return table
