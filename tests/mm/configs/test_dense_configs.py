"""Every config of a detector or segmenter: its model, pipelines and optimizer are built."""

from pathlib import Path

import pytest
import torch
import yaml
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope

from statescan.mm import load_config

FOLDER = Path(__file__).parents[3] / "configs"
METAFILES = sorted(FOLDER.glob("*/*/metafile.yml"))
PATHS = [
    FOLDER.parent / model["Config"]
    for path in METAFILES
    for model in yaml.safe_load(path.read_text())["Models"]
]
pytestmark = [  # MMSegmentation's advice about its own configs
    pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False:UserWarning:mmseg"),
    pytest.mark.filterwarnings("ignore:`reduce_zero_label` will be deprecated:UserWarning:mmseg"),
]


def build(config):
    """The model, without memory or initial values for its weights."""
    with DefaultScope.overwrite_default_scope(config.default_scope), torch.device("meta"):
        return MODELS.build(config.model)


def test_no_config_is_forgotten():
    listed = {path.parent for path in PATHS}
    found = {path for folder in listed for path in folder.glob("*.py")}
    assert set(PATHS) == found


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_model_pipelines_and_optimizer(path):
    config = load_config(path)
    model = build(config)
    backbone, wanted = model.backbone, config.model.get("decode_head", config.model.get("neck"))
    channels = wanted.in_channels
    assert backbone.out_channels == (channels if isinstance(channels, list) else [channels])
    with DefaultScope.overwrite_default_scope(config.default_scope):
        for loader in (config.train_dataloader, config.test_dataloader):
            dataset = loader.dataset.get("dataset", loader.dataset)  # inside of RepeatDataset
            for transform in dataset.pipeline:
                TRANSFORMS.build(transform)
        wrapper = build_optim_wrapper(model, config.optim_wrapper)
    held = [p for group in wrapper.optimizer.param_groups for p in group["params"]]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(held) == len(trained) == len({id(p) for p in held} & {id(p) for p in trained})


def test_the_published_recipes():
    mask_rcnn, upernet = (
        load_config(FOLDER / f"{task}/vmamba/{name}.py")
        for task, name in (
            ("detection", "mask_rcnn_vmamba_tiny_s1l8_3x_coco"),
            ("segmentation", "upernet_vmamba_tiny_s1l8_160k_ade20k"),
        )
    )
    assert mask_rcnn.optim_wrapper.optimizer.lr == 1e-4
    assert mask_rcnn.optim_wrapper.optimizer.weight_decay == 0.05
    assert mask_rcnn.param_scheduler[1].milestones == [27, 33]
    assert mask_rcnn.train_cfg.max_epochs == 36
    assert upernet.optim_wrapper.optimizer.lr == 6e-5
    assert upernet.optim_wrapper.optimizer.weight_decay == 0.01
    assert (upernet.param_scheduler[0].end, upernet.train_cfg.max_iters) == (1500, 160000)
