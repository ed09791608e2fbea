"""FSDP: parameters, gradients and the optimizer's state divided among the processes.

torch's ``fully_shard`` does it. Each parameter stays one tensor of its own shape, of which a
process holds a part; so parameter groups, gradient clipping and strict loading work as in one
process, and checkpoints are those of one process too. (MMEngine's ``FSDPStrategy`` belongs to its
``FlexibleRunner`` and flattens parameters, which timm's groups then take for vectors.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from ..errors import InputError

STRATEGIES = ("ddp", "fsdp")


def use_strategy(config: Config, strategy: str) -> None:
    """Train ``config`` in several processes by ``"ddp"`` or ``"fsdp"``.

    Raises:
        InputError: FSDP in one process, or with a hook that needs whole weights.
    """
    config.strategy = strategy
    if strategy != "fsdp":
        return
    if config.launcher == "none":
        raise InputError("strategy is 'fsdp' in one process: start several with torchrun")
    hooks = [*config.get("default_hooks", {}).values(), *config.get("custom_hooks", [])]
    if any(hook and hook.type.endswith("EMAHook") for hook in hooks):
        raise InputError("strategy 'fsdp' divides the weights; EMAHook needs whole ones")


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` was here."""
    return isinstance(model, FSDPModule)


def shard(model: nn.Module) -> None:
    """Divide a model in place: each stage or block of our backbones by itself, then all the rest.

    Raises:
        InputError: A parameter has no dimension that could be divided.
    """
    scalars = [name for name, parameter in model.named_parameters() if not parameter.dim()]
    if scalars:
        raise InputError(f"strategy 'fsdp' cannot divide {scalars[0]}, a single number: use 'ddp'")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(device, (get_world_size(),))
    for module in list(model.modules()):
        levels = getattr(module, "levels", None)  # of our backbones
        if isinstance(levels, nn.Sequential):  # not HRVMamba's, which are no modules to call
            for level in levels:
                fully_shard(level, mesh=mesh)
    fully_shard(model, mesh=mesh)


def divide(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, where ``like`` is a parameter that is divided."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def divide_checkpoint(checkpoint: dict, model: nn.Module, optimizer: Optimizer | None) -> None:
    """Divide the weights, and the optimizer's state where there is one, in place."""
    own = model.state_dict()
    weights = checkpoint["state_dict"]
    checkpoint["state_dict"] = {name: divide(value, own[name]) for name, value in weights.items()}
    if optimizer is not None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        _divide_state(checkpoint["optimizer"]["state"], parameters)


def _divide_state(state: dict[int, dict], parameters: Sequence[Tensor]) -> None:
    for index, values in state.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                values[name] = divide(value, parameters[index])


@contextmanager
def whole_states(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Inside, ``state_dict()`` of both gives whole tensors on CPU. All processes must enter."""
    weights, state = _whole(dict(model.state_dict())), _whole(optimizer.state_dict())
    hooks = [
        model.register_state_dict_post_hook(lambda module, own, *_: own.update(weights)),
        optimizer.register_state_dict_post_hook(lambda optimizer, own: state),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _whole(values: Any) -> Any:
    return apply_to(values, lambda v: isinstance(v, DTensor), lambda v: v.full_tensor().cpu())
