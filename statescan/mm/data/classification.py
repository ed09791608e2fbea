"""Datasets for classification: image folders, CIFAR-10 in two npz files, solar cells.

Each gives samples ``dict(inputs=(C, H, W) tensor, labels=class number)`` and has ``metainfo`` with
the names of its classes.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path

import numpy as np
import torchvision.datasets
from mmengine.registry import DATASETS
from PIL import Image
from torch.utils.data import Dataset

from ..errors import InputError
from .loading import decoded, naming
from .transforms import build_transform

CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def _existing(path: Path, wanted: str) -> Path:
    if not path.exists():
        raise InputError(f"there is no {wanted} {str(path)!r}: put the data there or name another")
    return path


class _Labelled(Dataset, ABC):
    """Images with a class number each, seen through a transform.

    Args:
        transform: Arguments of :func:`~statescan.mm.data.transforms.build_transform`.
        classes: Names of the classes in order.
    """

    def __init__(self, transform: dict, classes):
        self.transform = build_transform(**transform)
        self.metainfo = {"classes": tuple(classes)}

    @abstractmethod
    def load(self, index: int) -> tuple[Image.Image, int]:
        """Image and class number of sample ``index``."""

    @abstractmethod
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict:
        image, label = self.load(index)
        return {"inputs": self.transform(image), "labels": label}


@DATASETS.register_module()
class ImageFolder(_Labelled):
    """A folder with one folder of images a class, as ImageNet is usually laid out.

    Args:
        root: Folder of the splits, such as ``data/imagenet``.
        split: Folder in it with the class folders, such as ``"train"`` or ``"val"``.
        transform: Arguments of :func:`~statescan.mm.data.transforms.build_transform`.

    Raises:
        InputError: The folder does not exist or has no images.
    """

    def __init__(self, root: str, split: str, transform: dict):
        folder = str(_existing(Path(root) / split, "data folder"))
        try:
            self.images = torchvision.datasets.ImageFolder(folder)
        except FileNotFoundError as error:
            raise InputError(f"data folder {folder!r} has no class folders with images") from error
        super().__init__(transform, self.images.classes)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """RGB image and class number, classes in the order of their folders' names.

        Raises:
            InputError: The file is damaged or no longer there.
        """
        path, _ = self.images.samples[index]
        with naming(path):
            return decoded(lambda: self.images[index])

    def __len__(self) -> int:
        return len(self.images)


@DATASETS.register_module()
class Cifar10(_Labelled):
    """CIFAR-10 as ``cifar10_{train,test}_jpeg.npz``: JPEG bytes ``blob``, ``offsets``, ``labels``.

    JPEG is lossy: accuracies are not exactly those on the original pixels.

    Args:
        root: Folder of the two files.
        split: ``"train"`` or ``"test"``.
        transform: Arguments of :func:`~statescan.mm.data.transforms.build_transform`.

    Raises:
        InputError: The folder or the file does not exist.
    """

    def __init__(self, root: str, split: str, transform: dict):
        super().__init__(transform, CIFAR10_CLASSES)
        folder = _existing(Path(root), "data folder")
        with np.load(_existing(folder / f"cifar10_{split}_jpeg.npz", "data file")) as arrays:
            self.blob = arrays["blob"]
            self.offsets = arrays["offsets"].astype(np.int64)
            self.labels = arrays["labels"].astype(np.int64)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """RGB image of 32x32 pixels and class number."""
        start, stop = self.offsets[index : index + 2]
        image = Image.open(io.BytesIO(self.blob[start:stop].tobytes()))
        return image.convert("RGB"), int(self.labels[index])

    def __len__(self) -> int:
        return len(self.labels)


@lru_cache(maxsize=1)
def _photographs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        from elpv_dataset.utils import load_dataset
    except ImportError as error:
        raise InputError(
            "the solar cells need elpv-dataset: pip install statescan[demo]"
        ) from error
    return load_dataset()


@lru_cache(maxsize=2)
def load_cells(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ELPV electroluminescence photographs of solar cells, resized.

    Args:
        size: Side length in pixels; the originals have 300.

    Returns:
        (2624, size, size) uint8 grey values, (2624,) defect probabilities 0, 1/3, 2/3 or 1, and
        (2624,) kinds of cell, ``"mono"`` or ``"poly"``. Callers share them: do not write.

    Raises:
        InputError: The package elpv-dataset is not installed.
    """
    images, probabilities, kinds = _photographs()
    small = [np.asarray(Image.fromarray(image).resize((size, size))) for image in images]
    return np.stack(small), probabilities, kinds


def split_cells(split: str, probabilities: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Indices of the fixed 75/25 split, stratified by probability and kind of cell.

    It depends on no training seed, so that runs are compared on the same held-out cells.
    """
    from sklearn.model_selection import train_test_split

    strata = [f"{kind} {p:.2f}" for kind, p in zip(kinds, probabilities, strict=True)]
    train, test = train_test_split(
        np.arange(len(strata)), test_size=0.25, stratify=strata, random_state=0
    )
    return np.sort({"train": train, "test": test}[split])


@DATASETS.register_module()
class SolarCells(_Labelled):
    """ELPV solar cells, held in memory: class 1 is a defect probability of at least 0.5.

    Args:
        split: ``"train"`` or ``"test"`` of :func:`split_cells`.
        size: Side length in pixels that the photographs are kept at.
        transform: Arguments of :func:`~statescan.mm.data.transforms.build_transform`.
    """

    def __init__(self, split: str, size: int, transform: dict):
        super().__init__(transform, ("sound", "defective"))
        images, probabilities, kinds = load_cells(size)
        self.indices = split_cells(split, probabilities, kinds)
        self.images = images[self.indices]
        self.labels = (probabilities[self.indices] >= 0.5).astype(np.int64)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Grey image and class number."""
        return Image.fromarray(self.images[index]), int(self.labels[index])

    def __len__(self) -> int:
        return len(self.indices)
