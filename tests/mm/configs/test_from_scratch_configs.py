"""Trainings from scratch: what their configs build, and that two of one base are a fair pair."""

from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import METRICS, MODELS, TRANSFORMS, DefaultScope

from statescan.mm import load_config

FOLDER = Path(__file__).parents[3] / "configs"
PAIRS = {
    "detection/from_scratch/faster_rcnn_{}_bccd.py": "instances_val.json",
    "detection/from_scratch/mask_rcnn_{}_dsb2018.py": "instances_val.json",
    "segmentation/from_scratch/upernet_{}_camvid.py": None,
}


@pytest.mark.parametrize("backbone", ["vmamba_nano", "resnet18"])
@pytest.mark.parametrize("path", PAIRS)
def test_model_pipelines_and_optimizer(path, backbone):
    config = load_config(FOLDER / path.format(backbone))
    with DefaultScope.overwrite_default_scope(config.default_scope):
        with torch.device("meta"):
            model = MODELS.build(config.model)
            maps = model.backbone(torch.zeros(1, 3, 96, 96))
        for loader in (config.train_dataloader, config.test_dataloader):
            for transform in loader.dataset.pipeline:
                TRANSFORMS.build(transform)
        wrapper = build_optim_wrapper(model, config.optim_wrapper)
    wanted = config.model.get("decode_head", config.model.get("neck"))
    assert [level.shape[1] for level in maps] == list(wanted.in_channels)
    assert [96 // level.shape[-1] for level in maps] == [4, 8, 16, 32]
    held = {id(p) for group in wrapper.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}  # nothing is frozen


@pytest.mark.parametrize("path", PAIRS)
def test_two_backbones_differ_in_nothing_else(path):
    ours, theirs = (
        load_config(FOLDER / path.format(name)).to_dict() for name in ("vmamba_nano", "resnet18")
    )
    for config in (ours, theirs):
        assert config["model"].pop("backbone")
        assert config.pop("work_dir")
        for part in ("neck", "decode_head", "auxiliary_head"):
            config["model"].get(part, {}).pop("in_channels", None)
    assert ours == theirs


@pytest.mark.parametrize(("path", "file"), PAIRS.items())
def test_the_data_are_where_the_command_line_says(tmp_path, path, file):
    options = {"data_root": str(tmp_path)}
    config = load_config(FOLDER / path.format("resnet18"), options=options)
    loaders = (config.train_dataloader, config.val_dataloader, config.test_dataloader)
    assert {loader.dataset.data_root for loader in loaders} == {str(tmp_path)}
    evaluators = (config.val_evaluator, config.test_evaluator)
    found = {evaluator.get("ann_file") for evaluator in evaluators}
    assert found == {file and f"{tmp_path}/{file}"}


def test_the_metric_of_camvid_is_found_by_its_name():
    config = load_config(FOLDER / "segmentation/from_scratch/upernet_resnet18_camvid.py")
    with DefaultScope.overwrite_default_scope("mmseg"):
        assert type(METRICS.build(config.val_evaluator)).__name__ == "ClasswiseIoU"
