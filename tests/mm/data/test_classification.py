import sys

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from statescan.mm import InputError
from statescan.mm.data import classification
from statescan.mm.data.classification import split_cells
from statescan.mm.data.transforms import RandomQuarterTurn, build_transform

EVALUATION = {"input_size": 32}


def build(**kwargs):
    return DATASETS.build({"transform": EVALUATION, **kwargs})


def test_cifar10(cifar10):
    dataset = build(type="Cifar10", root=str(cifar10), split="train")
    assert len(dataset) == 64
    assert dataset[63]["inputs"].shape == (3, 32, 32)
    assert {dataset[index]["labels"] for index in range(64)} <= set(range(10))
    assert dataset.metainfo["classes"][9] == "truck"


def test_cifar10_pixels_are_those_of_the_file(cifar10):
    dataset = build(type="Cifar10", root=str(cifar10), split="test")
    image, label = dataset.load(5)
    assert (image.size, image.mode, label) == ((32, 32), "RGB", int(dataset.labels[5]))
    assert not np.array_equal(image, dataset.load(6)[0])


def test_cifar10_without_data(tmp_path):
    with pytest.raises(InputError, match="there is no data folder 'data/nowhere': put the data"):
        build(type="Cifar10", root="data/nowhere", split="train")
    with pytest.raises(InputError, match=r"there is no data file '.*cifar10_train_jpeg\.npz'"):
        build(type="Cifar10", root=str(tmp_path), split="train")


def test_image_folder(tmp_path):
    for name, grey in (("n02", 20), ("n10", 200)):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("L", (40, 50), grey).save(tmp_path / "val" / name / "1.png")
    dataset = build(type="ImageFolder", root=str(tmp_path), split="val")
    assert dataset.metainfo["classes"] == ("n02", "n10")
    assert [dataset[index]["labels"] for index in range(2)] == [0, 1]
    assert dataset[0]["inputs"].shape == (3, 32, 32)
    assert dataset[0]["inputs"].mean() < dataset[1]["inputs"].mean()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named(tmp_path, workers):
    path = tmp_path / "val/n02/1.jpg"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    dataset = build(type="ImageFolder", root=str(tmp_path), split="val")
    with pytest.raises(InputError) as refused:
        next(iter(DataLoader(dataset, num_workers=workers)))
    assert str(refused.value) == f"image '{path}' cannot be decoded: mend or remove it"


def test_image_folder_without_images(tmp_path):
    with pytest.raises(InputError, match="there is no data folder"):
        build(type="ImageFolder", root=str(tmp_path), split="train")
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="train' has no class folders with images"):
        build(type="ImageFolder", root=str(tmp_path), split="train")


@pytest.fixture
def cells(monkeypatch):
    """Forty small cells in place of the 2,624 photographs."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 30, 30), dtype=np.uint8)
    probabilities = np.repeat([0, 1 / 3, 2 / 3, 1], 10)
    kinds = np.tile(["mono", "poly"], 20)
    monkeypatch.setattr(classification, "_photographs", lambda: (images, probabilities, kinds))
    classification.load_cells.cache_clear()
    yield images, probabilities, kinds
    classification.load_cells.cache_clear()


GREY = {"input_size": 24, "mean": (0.5,), "std": (0.5,)}


def test_cells_are_split_once_and_for_all(cells):
    _, probabilities, kinds = cells
    train, test = (split_cells(split, probabilities, kinds) for split in ("train", "test"))
    assert sorted([*train, *test]) == list(range(40))
    assert len(test) == 10
    strata = list(zip(kinds[test], probabilities[test], strict=True))
    assert {strata.count(stratum) for stratum in strata} == {1, 2}  # a quarter of five
    assert len(set(strata)) == 8
    torch.manual_seed(1)
    assert np.array_equal(split_cells("test", probabilities, kinds), test)


def test_cells_are_defective_from_a_probability_of_one_half(cells):
    dataset = build(type="SolarCells", split="train", size=24, transform=GREY)
    assert len(dataset) == 30
    assert dataset[0]["inputs"].shape == (1, 24, 24)
    _, probabilities, kinds = classification.load_cells(24)
    chosen = probabilities[classification.split_cells("train", probabilities, kinds)]
    assert [dataset[i]["labels"] for i in range(30)] == (chosen > 0.5).tolist()


def test_cells_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "elpv_dataset.utils", None)
    classification._photographs.cache_clear()
    classification.load_cells.cache_clear()
    with pytest.raises(InputError, match=r"need elpv-dataset: pip install statescan\[demo\]"):
        classification.load_cells(16)


def test_quarter_turns_are_all_taken_and_nothing_else():
    image = torch.arange(9.0).reshape(1, 3, 3)
    turned = {tuple(RandomQuarterTurn()(image).flatten().tolist()) for _ in range(100)}
    assert turned == {tuple(torch.rot90(image, k, (1, 2)).flatten().tolist()) for k in range(4)}


def test_quarter_turns_end_the_transform():
    transform = build_transform(quarter_turns=True, input_size=32, is_training=True)
    assert isinstance(transform.transforms[-1], RandomQuarterTurn)
    assert transform(Image.new("RGB", (50, 40))).shape == (3, 32, 32)
