from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS

from statescan.mm import load_config

FOLDER = Path(__file__).parents[3] / "configs/classification"


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.stem)
def test_every_config_builds_its_model(path):
    config = load_config(path)
    with torch.device("meta"):
        model = MODELS.build(config.model)
    assert model.backbone.num_classes == config.model.backbone.num_classes


def test_the_published_recipe():
    config = load_config(FOLDER / "vmamba/vmamba_tiny_s1l8_imagenet.py")
    optimizer, (warm_up, cosine) = config.optim_wrapper.optimizer, config.param_scheduler
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 1e-3, 0.05)
    assert config.auto_scale_lr == {"enable": True, "base_batch_size": 1024}
    assert config.train_cfg.max_epochs == cosine.end == 300
    assert warm_up.end == cosine.begin == 20
    assert warm_up.start_factor * optimizer.lr == pytest.approx(1e-6)
    assert cosine.eta_min_ratio * optimizer.lr == pytest.approx(1e-5)
    assert config.optim_wrapper.clip_grad == {"max_norm": 5.0}
    assert config.default_hooks.ema.momentum == pytest.approx(1 - 0.9999)
    assert config.model.mixup == {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.1}
    transform = config.train_dataloader.dataset.transform
    assert (transform.auto_augment, transform.re_prob) == ("rand-m9-mstd0.5-inc1", 0.25)
    assert config.model.backbone.drop_path_rate == 0.2
