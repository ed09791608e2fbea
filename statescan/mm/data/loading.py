"""Images and label maps of detectors and segmenters: a damaged file is named, or skipped.

mmcv's own loading names some files, and an OpenCV before 5 makes of a JPEG file that ends early an
image that is grey from there on. `StateScanRunner` puts these transforms in the place of mmcv's.
"""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from mmengine import fileio
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, TRANSFORMS
from mmengine.runner import Runner

from ..errors import InputError


class CorruptFile(Exception):
    """A file that is there and cannot be read whole; the message is a clause after its name."""


def read_whole(path: str, backend_args: dict | None = None) -> bytes:
    """The bytes of an image file, whose end must be there.

    Raises:
        InputError: There is no such file.
        CorruptFile: It is empty, or a JPEG or PNG file that ends early.
    """
    try:
        data = fileio.get(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise InputError(f"there is no image {path!r}") from error
    except OSError as error:
        raise CorruptFile(f"cannot be read ({error.strerror})") from error
    if not data:
        raise CorruptFile("is empty")
    if ends_early(data):
        raise CorruptFile("ends early")
    return data


@contextmanager
def naming(file: str | Path) -> Iterator[None]:
    """Makes an `InputError` of a `CorruptFile`, with the name of the file."""
    try:
        yield
    except CorruptFile as error:
        raise InputError(f"image {str(file)!r} {error}: mend or remove it") from error


def decoded(decode: Callable[[], Any]) -> Any:
    """What ``decode`` gives; raises `CorruptFile` where that is None or an error."""
    try:
        result = decode()
    except Exception as error:  # each decoder has errors of its own, which name no file
        raise CorruptFile("cannot be decoded") from error
    if result is None:
        raise CorruptFile("cannot be decoded")
    return result


def ends_early(data: bytes) -> bool:
    """Whether a JPEG or PNG file has no end mark; False for other formats."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if data.startswith(b"\xff\xd8"):
        return data.find(b"\xff\xd9", _start_of_scan(data)) < 0
    return False


def _start_of_scan(data: bytes) -> int:
    """Where a JPEG file's picture begins, past segments that may hold a thumbnail with an end."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        place += 1 if data[place + 1] == 0xFF else 2 + length  # 0xFF may be repeated
    return place


class _Load(ABC):
    """A transform that reads a file of a sample, and knows what to do with a corrupt one.

    Args:
        key: Where a sample has the path.
        skip_corrupt: Leave the sample out and note it; MMEngine's datasets draw another for it.
    """

    def __init__(self, key: str, skip_corrupt: bool):
        self.key, self.skip_corrupt = key, skip_corrupt
        # Data workers share no memory with the process that counts, but a file.
        self.notes = Path(tempfile.gettempdir()) / f"statescan-skipped-{uuid4().hex}.txt"

    def __call__(self, sample: dict) -> dict | None:
        """The sample with what was read; None where it is skipped.

        Raises:
            InputError: The file is not there, or is corrupt and not to be skipped.
        """
        try:
            return self.load(sample)
        except CorruptFile as error:
            sentence = f"image {sample[self.key]!r} {error}"
        if not self.skip_corrupt:
            raise InputError(f"{sentence}: mend or remove it, or train with skip_corrupt=True")
        with open(self.notes, "a") as file:
            file.write(f"{sentence}\n")
        return None

    @abstractmethod
    def load(self, sample: dict) -> dict:
        """Read the file into ``sample``; raises `CorruptFile`."""

    def take_notes(self) -> list[str]:
        """A line for each time that a file was skipped since the last call, by any worker."""
        taken = self.notes.with_suffix(".taken")
        try:
            os.replace(self.notes, taken)  # a worker that writes meanwhile starts a new file
        except FileNotFoundError:
            return []
        lines = taken.read_text().splitlines()
        taken.unlink()
        return lines


@TRANSFORMS.register_module()
class LoadImage(_Load):
    """mmcv's ``LoadImageFromFile``, which names the file that is corrupt.

    Args:
        to_float32: Give float32 pixels instead of uint8.
        color_type: As for :func:`mmcv.imfrombytes`.
        imdecode_backend: As for :func:`mmcv.imfrombytes`.
        backend_args: Storage of the files, as for :func:`mmengine.fileio.get`.
        skip_corrupt: Leave the sample out and note it; for training only.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = "color",
        imdecode_backend: str = "cv2",
        backend_args: dict | None = None,
        skip_corrupt: bool = False,
    ):
        super().__init__("img_path", skip_corrupt)
        self.to_float32, self.backend_args = to_float32, backend_args
        self.decoding = {"flag": color_type, "backend": imdecode_backend}

    def load(self, sample: dict) -> dict:
        """Adds ``img`` (H, W, C), ``img_shape`` and ``ori_shape``."""
        import mmcv

        data = read_whole(sample["img_path"], self.backend_args)
        image = decoded(lambda: mmcv.imfrombytes(data, **self.decoding))
        image = image.astype(np.float32) if self.to_float32 else image
        return sample | {"img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}


@TRANSFORMS.register_module()
class LoadLabels(_Load):
    """MMSegmentation's ``LoadAnnotations``, which names the label map that is corrupt.

    Args:
        skip_corrupt: Leave the sample out and note it; for training only.
        **kwargs: Arguments of that transform.
    """

    def __init__(self, skip_corrupt: bool = False, **kwargs):
        super().__init__("seg_map_path", skip_corrupt)
        self.inner = TRANSFORMS.build({"type": "mmseg.LoadAnnotations", **kwargs})

    def load(self, sample: dict) -> dict:
        """Adds ``gt_seg_map`` (H, W)."""
        read_whole(sample["seg_map_path"], self.inner.backend_args)
        return decoded(lambda: self.inner(sample))


def load_safely(config: Any, skip_corrupt: bool, segmentation: bool) -> Any:
    """A config with `LoadImage` and `LoadLabels` where it has the usual transforms.

    Args:
        config: Of a dataset, with others and pipelines inside, or of a hook with a pipeline.
        skip_corrupt: Skip corrupt files, but for datasets with ``test_mode``: no figure of an
            evaluation should be of fewer images than it says.
        segmentation: Whether ``LoadAnnotations`` is MMSegmentation's.
    """
    if isinstance(config, (list, tuple)):
        return type(config)(load_safely(c, skip_corrupt, segmentation) for c in config)
    if not isinstance(config, dict):
        return config
    skip_corrupt = skip_corrupt and not config.get("test_mode")
    inside = {k: load_safely(v, skip_corrupt, segmentation) for k, v in config.items()}
    kind = config.get("type")
    name = getattr(kind, "__name__", str(kind)).rpartition(".")[2]
    if name == "LoadImageFromFile" and not {"ignore_empty", "file_client_args"} & config.keys():
        inside.update(type="LoadImage", skip_corrupt=skip_corrupt)
    elif name == "LoadAnnotations" and segmentation:
        inside.update(type="LoadLabels", skip_corrupt=skip_corrupt)
    return type(config)(inside)


def with_inner(dataset: Any) -> Iterator[Any]:
    """A dataset and those inside of it, which it repeats, balances, mixes or joins."""
    for inner in (getattr(dataset, "dataset", None), *getattr(dataset, "datasets", ())):
        if inner is not None:
            yield from with_inner(inner)
    yield dataset


def _loading(dataset: Any) -> Iterator[_Load]:
    """The transforms of this module in a dataset and in those inside of it."""
    for part in with_inner(dataset):
        pipeline = getattr(part, "pipeline", ())
        for transform in getattr(pipeline, "transforms", pipeline):
            if isinstance(transform, _Load):
                yield transform


@HOOKS.register_module()
class SkippedImagesHook(Hook):
    """Says which corrupt images were skipped, when an epoch ends and before each validation.

    How often that was in this training is ``"skipped_images"`` in the runner's message hub.
    """

    def after_train_epoch(self, runner: Runner) -> None:
        """Report."""
        self._report(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Report, where this validation is part of a training."""
        if not isinstance(runner._train_loop, dict) and runner._train_loop is not None:
            self._report(runner)

    def _report(self, runner: Runner) -> None:
        own = [note for t in _loading(runner.train_dataloader.dataset) for note in t.take_notes()]
        notes = [note for notes in all_gather_object(own) for note in notes]
        total = runner.message_hub.get_info("skipped_images", default=0) + len(notes)
        runner.message_hub.update_info("skipped_images", total)
        if notes:
            runner.logger.warning(
                f"skipped {len(notes)} samples with corrupt files, {total} in this training: "
                + "; ".join(dict.fromkeys(notes))
            )
