import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from statescan.mm import load_config

ROOT = Path(__file__).resolve().parents[2]
CIFAR_CONFIG = ROOT / "configs/classification/vmamba/vmamba_nano_cifar10.py"


def write_cifar10(folder: Path, split: str, images: int) -> None:
    """A file of random colour images in the form that Cifar10 reads."""
    rng = np.random.default_rng(images)
    files = []
    for pixels in rng.integers(0, 256, (images, 4, 4, 3), dtype=np.uint8):
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((32, 32)).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    np.savez(
        folder / f"cifar10_{split}_jpeg.npz",
        blob=np.frombuffer(b"".join(files), np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=rng.integers(0, 10, images).astype(np.uint8),
    )


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory) -> Path:
    """A data folder of 64 training and 24 test images."""
    folder = tmp_path_factory.mktemp("cifar10")
    write_cifar10(folder, "train", 64)
    write_cifar10(folder, "test", 24)
    return folder


@pytest.fixture
def options(cifar10) -> dict:
    """Overrides that make a config of CIFAR-10 train in a second."""
    return {
        "data_root": str(cifar10),
        "model.backbone.name": "test_convnext",
        "train_dataloader.batch_size": 16,
        "train_dataloader.num_workers": 0,
        "val_dataloader.num_workers": 0,
        "test_dataloader.num_workers": 0,
        "train_cfg.max_epochs": 2,
        "env_cfg.torch_threads": 1,
    }


@pytest.fixture
def config(options, tmp_path):
    """Config of a training of a second, in a folder of its own."""
    return load_config(CIFAR_CONFIG, str(tmp_path / "work"), options)
