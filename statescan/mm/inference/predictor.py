"""A trained model of a config, asked about one image of any size."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope
from PIL import Image

from ..data.root import innermost
from ..data.transforms import build_transform
from ..errors import InputError
from ..models.backbone import read_fitting


def in_scope(config: Config):
    """A context in which names of a config are found in its own registries, mmdet's or mmseg's."""
    return DefaultScope.overwrite_default_scope(config.get("default_scope") or "mmengine")


@contextmanager
def building(config: Config) -> Iterator[None]:
    """:func:`in_scope`, without what mmdet, mmseg and pycocotools print when they are loaded."""
    with in_scope(config), redirect_stdout(io.StringIO()):
        yield


def test_dataset(config: Config) -> ConfigDict:
    """The config of the test data, inside of wrappers; of several the first."""
    return next(innermost(config.test_dataloader.dataset))


def read_metainfo(config: Config) -> dict:
    """``classes`` and ``palette``, None where it is unknown, of a config's test data.

    The data themselves are read only where nothing else names their classes.
    """
    dataset = test_dataset(config)
    with building(config), DATASETS.switch_scope_and_registry(None) as registry:
        kind = registry.get(dataset.type)
        own = {**getattr(kind, "METAINFO", {}), **(dataset.get("metainfo") or {})}
        classes = own.get("classes") or _classes_of_data(dataset)
    return {"classes": tuple(classes), "palette": own.get("palette")}


def _classes_of_data(dataset: ConfigDict) -> tuple[str, ...]:
    """Classes that a dataset finds in its files; none where those are not at hand."""
    try:
        return tuple(DATASETS.build(dataset).metainfo.get("classes") or ())
    except (FileNotFoundError, InputError):
        return ()


class Predictor:
    """A model with weights, and the preparation that its config gives to test images.

    Args:
        config: Of a detector, an instance or semantic segmenter, or a classifier.
        checkpoint: The whole model's weights, ours or the authors'. They are read without running
            code, and must fit.
        device: Where the model runs; a GPU where there is one, unless given.

    Raises:
        InputError: The checkpoint is missing, damaged or of another model.
    """

    def __init__(self, config: Config, checkpoint: str | Path, device: str | None = None):
        self.config = config
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        with building(config):
            self.model = MODELS.build(config.model)
            self.prepare = _build_preparation(config)
        self.model.load_state_dict(read_fitting(checkpoint, self.model)["state_dict"])
        self.model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> Any:
        """What the model says of an image.

        Args:
            image: (H, W, 3) uint8, BGR as OpenCV reads them.

        Returns:
            MMDetection's or MMSegmentation's data sample in the image's own coordinates, on the
            CPU; of a classifier a dict with ``scores`` (classes,).
        """
        with in_scope(self.config):
            (found,) = self.model.test_step(self.prepare(image))
        return found.cpu() if hasattr(found, "cpu") else found


def _build_preparation(config: Config) -> Callable[[np.ndarray], dict]:
    """From an image (H, W, 3), BGR, to the batch of one that ``test_step`` takes."""
    dataset = test_dataset(config)
    if "transform" in dataset:
        mode = "L" if config.model.backbone.get("in_chans") == 1 else "RGB"
        transform = build_transform(**dataset.transform)
        return lambda image: {"inputs": transform(_to_pil(image).convert(mode))[None]}
    pipeline = Compose([step for step in dataset.pipeline if not loads(step)])
    return lambda image: pseudo_collate([pipeline(_as_loaded(image))])


def loads(step: dict) -> bool:
    """Whether a transform reads files: the image, its annotations."""
    return str(step["type"]).rpartition(".")[2].startswith("Load")


def _as_loaded(image: np.ndarray) -> dict:
    """What the loading of an image leaves to the transforms that follow."""
    size = image.shape[:2]
    return {"img": image, "img_shape": size, "ori_shape": size, "img_path": "", "img_id": 0}


def _to_pil(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
