"""--cfg-options data_root=PATH reaches every dataset and evaluator."""

from pathlib import Path

import pytest
from mmengine.config import Config

from statescan.mm import InputError, load_config
from statescan.mm.data.root import check_data, innermost, set_data_root

CONFIGS = Path(__file__).parents[3] / "configs"
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


@pytest.mark.parametrize(
    "name",
    [
        "detection/vmamba/mask_rcnn_vmamba_tiny_s1l8_3x_coco",
        "detection/vim/cascade_mask_rcnn_vim_tiny_lsj-100e_coco",
        "detection/plainmamba/retinanet_plainmamba_l1_1x_coco",
        "segmentation/vmamba/upernet_vmamba_tiny_s1l8_160k_ade20k",
    ],
)
def test_published_recipes(name):
    config = load_config(CONFIGS / f"{name}.py", options={"data_root": "/somewhere"})
    roots = {
        Path(leaf.data_root) for loader in LOADERS for leaf in innermost(config[loader].dataset)
    }
    assert roots == {Path("/somewhere")}
    for evaluator in (config.val_evaluator, config.test_evaluator):
        if "ann_file" in evaluator:
            assert evaluator.ann_file == "/somewhere/annotations/instances_val2017.json"


def leaf(root="data/coco/", **others):
    return {
        "type": "CocoDataset",
        "data_root": root,
        "ann_file": "a.json",
        "pipeline": [],
        **others,
    }


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: {"type": "RepeatDataset", "times": 2, "dataset": inner},
        lambda inner: {"type": "MultiImageMixDataset", "dataset": inner, "pipeline": []},
        lambda inner: {"type": "ConcatDataset", "datasets": [inner, leaf()]},
        lambda inner: {"type": "ClassBalancedDataset", "dataset": {"type": "R", "dataset": inner}},
    ],
    ids=["repeat", "mix", "concat", "twice"],
)
def test_datasets_inside_of_others(wrap):
    config = Config({"data_root": "elsewhere/coco", "train_dataloader": {"dataset": wrap(leaf())}})
    set_data_root(config, "data/coco/")
    roots = [inner.data_root for inner in innermost(config.train_dataloader.dataset)]
    assert set(roots) == {"elsewhere/coco"}


def test_other_paths_stay():
    datasets = [
        leaf(),
        leaf("data/lvis/"),
        leaf("data/coco2/"),
        leaf("", ann_file="data/coco/a.json"),
    ]
    config = Config({"data_root": "/d", "train_dataloader": {"dataset": {"datasets": datasets}}})
    set_data_root(config, "data/coco/")
    ours, *others, by_file = config.train_dataloader.dataset.datasets
    assert (ours.data_root, ours.ann_file) == ("/d", "a.json")
    assert [other.data_root for other in others] == ["data/lvis/", "data/coco2/"]
    assert by_file.ann_file == "/d/a.json"


def test_our_datasets_inside_of_others():
    inner = {"type": "Cifar10", "split": "train", "transform": {}}
    wrapped = {"type": "RepeatDataset", "times": 2, "dataset": inner}
    config = Config({"data_root": "/cifar", "train_dataloader": {"dataset": wrapped}})
    set_data_root(config, "/cifar")
    assert config.train_dataloader.dataset.dataset.root == "/cifar"


def test_a_folder_that_is_not_there(tmp_path):
    there = {"dataset": leaf(str(tmp_path))}
    remote = {"dataset": leaf("s3://bucket/coco")}
    config = Config({"train_dataloader": there, "val_dataloader": remote})
    check_data(config, "train_dataloader", "val_dataloader", "test_dataloader")
    config.train_dataloader.dataset.data_root = "data/nowhere"
    check_data(config, "val_dataloader")
    with pytest.raises(InputError, match=r"there is no data folder 'data/nowhere': put the data"):
        check_data(config, "train_dataloader")
