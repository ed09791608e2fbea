"""Reading checkpoints: nothing unpickled but tensors, nothing dropped in silence."""

import argparse
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

# Where training programs keep the weights, the averaged ones first.
CONTAINERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model")
WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Weights of a .safetensors or torch file, out of whatever container they lie in.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, holds more than plain data, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {str(path)!r} does not exist")
    try:
        if path.suffix == ".safetensors":
            checkpoint = safetensors.torch.load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"checkpoint {str(path)!r} is damaged and was not loaded: {error}"
        ) from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoint {str(path)!r} is damaged, or holds Python objects beside its weights, "
            f"and was not loaded: {error}"
        ) from error
    state_dict = unwrap(checkpoint)
    if not state_dict:
        raise ValueError(f"checkpoint {str(path)!r} holds no weights")
    return state_dict


def unwrap(checkpoint: object) -> dict[str, Tensor]:
    """The tensors of a checkpoint, without container and wrapper prefixes."""
    if not isinstance(checkpoint, Mapping):
        return {}
    for name in CONTAINERS:
        if isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
            break
    prefix = re.compile(rf"^({'|'.join(map(re.escape, WRAPPERS))})+")
    return {prefix.sub("", k): v for k, v in checkpoint.items() if isinstance(v, Tensor)}


def rename(state_dict: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Every key rewritten by every rule (pattern, replacement) in turn."""
    renamed = {}
    for key, value in state_dict.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def check_foreign(state_dict: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse weights of another model in one sentence instead of a page of key names."""
    if not state_dict.keys() & model.state_dict().keys():
        raise ValueError(
            f"state_dict holds {next(iter(state_dict))!r} and {len(state_dict) - 1} more, none of "
            f"which {type(model).__name__} has: is it a checkpoint of another model?"
        )
