"""Checkpoint files: written whole or not at all, read without running what is inside them.

MMEngine writes checkpoints in place and, where torch refuses to unpickle a file safely, unpickles
it unsafely. Here a file appears under its name only when its bytes are on the disk, and whatever
is damaged, foreign or more than plain data is refused with a sentence that names the file.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend
from torch import Tensor, nn

from ...backbones import read_checkpoint, read_plain, without_logs
from ...files import atomic_write
from ..errors import InputError

POINTER = "last_checkpoint"
NUMBERED = r"(epoch|iter)_\d+\.pth"
RESUMABLE = ("meta", "state_dict", "optimizer", "message_hub")


@register_backend("statescan_atomic")
class AtomicBackend(LocalBackend):
    """MMEngine's local files, with ``put`` atomic: ``backend_args=dict(backend=...)``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` to ``filepath`` with :func:`atomic_write`.

        Raises:
            InputError: It could not be written, as when the disk is full.
        """
        try:
            atomic_write(filepath, obj)
        except OSError as error:
            raise InputError(
                f"{filepath} was not written ({error.strerror}): what was saved before is whole"
            ) from error


def latest_checkpoint(work_dir: str | Path) -> Path | None:
    """The checkpoint that ``work_dir/last_checkpoint`` names, or None before the first one.

    Only the name counts, so that a work folder may be moved. Where MMEngine's ``CheckpointHook``
    was killed before it had written the name, it is the last one by its number.
    """
    folder = Path(work_dir)
    named = folder / Path(_read(folder / POINTER).strip() or "none").name
    if named.is_file():
        return named
    numbered = [path for path in folder.glob("*.pth") if re.fullmatch(NUMBERED, path.name)]
    return max(numbered, key=lambda path: int(path.stem.split("_")[1]), default=None)


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


@contextmanager
def as_input_errors():
    """Raise what reading a checkpoint raises as :class:`InputError`."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise InputError(str(error)) from error


def drop_logs(hub: dict) -> None:
    """Leave out of a ``message_hub`` what is not plain data: each iteration's scalars, a number."""
    hub["log_scalars"] = {}
    hub["runtime_info"].pop("eta", None)
    hub["resumed_keys"] = dict.fromkeys(hub["runtime_info"], True)


def holds_classifier(path: str | Path) -> bool:
    """Whether a file has the weights of a whole classifier, as against those of a backbone.

    Raises:
        InputError: The file is missing, damaged, holds other Python objects or no weights.
    """
    with as_input_errors():
        return any(key.startswith("backbone.") for key in read_checkpoint(path))


def read_training_checkpoint(
    path: str | Path, map_location: str = "cpu", required=("state_dict",)
) -> dict:
    """Read a checkpoint of plain data (tensors, numbers, text, lists, dicts).

    Args:
        path: File written by ``tools/train.py``, or one of weights alone.
        map_location: Device for its tensors, as in :func:`torch.load`.
        required: Keys it must have; weights alone are ``"state_dict"``.

    Raises:
        InputError: The file is missing, damaged, holds other Python objects, or lacks a key.
    """
    with as_input_errors(), without_logs():
        checkpoint = read_plain(path, map_location)
    if isinstance(checkpoint, dict) and {type(v) for v in checkpoint.values()} == {Tensor}:
        checkpoint = {"state_dict": checkpoint}
    _check_keys(path, checkpoint, required)
    return checkpoint


def _check_keys(path, checkpoint, required) -> None:
    missing = [key for key in required if not isinstance(checkpoint, dict) or key not in checkpoint]
    if missing:
        raise InputError(
            f"checkpoint {path} has no {', '.join(missing)}: "
            "it was not written by this library's training"
        )


def check_fits(path: str | Path, state_dict: dict, model: nn.Module) -> None:
    """Refuse a ``state_dict`` whose names or shapes are not those of ``model``.

    Raises:
        InputError: Counts what is missing, foreign or of another shape, with an example of each.
    """
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = {name: tuple(getattr(value, "shape", ())) for name, value in state_dict.items()}
    shared = ours.keys() & theirs.keys()
    findings = {
        "missing": sorted(ours.keys() - theirs.keys()),
        "foreign": sorted(theirs.keys() - ours.keys()),
        "of another shape": sorted(name for name in shared if ours[name] != theirs[name]),
    }
    told = [f"{len(names)} {what} ({names[0]})" for what, names in findings.items() if names]
    if told:
        raise InputError(f"checkpoint {path} is of another model: {', '.join(told)}")
