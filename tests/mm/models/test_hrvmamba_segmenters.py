"""HRVMamba's segmenters, and the pairs of from-scratch configs that are compared."""

from pathlib import Path

import pytest
import torch
from golden import load_variants
from mmengine.registry import MODELS, DefaultScope

from statescan.mm import load_config
from statescan.mm.models.backbone import StateScanBackbone
from statescan.scans import RouteAttention

FOLDER = Path(__file__).parents[3] / "configs/segmentation"
# MMSegmentation's advice about its own configs
pytestmark = pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``:UserWarning:mmseg")


def build(name):
    config = load_config(FOLDER / f"{name}.py")
    with DefaultScope.overwrite_default_scope("mmseg"), torch.device("meta"):
        return config, MODELS.build(config.model)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_published_upernet_has_the_published_parameters():
    config, model = build("hrvmamba/upernet_hrvmamba_base_160k_ade20k")
    assert count(model.backbone) == 58_505_408
    assert round((count(model) - count(model.auxiliary_head)) / 1e6) == 99
    assert model.backbone.model.neck_features
    assert config.param_scheduler[0].end == 1500
    assert config.train_cfg.max_iters == 160_000
    assert config.optim_wrapper.optimizer.lr == 6e-5


def test_weights_of_the_authors_classifier_start_the_segmenter():
    """All but the classifier itself and the new out-norms."""
    with torch.device("meta"):
        backbone = StateScanBackbone("hrvmamba_base")
    (variant,) = (v for v in load_variants("hrvmamba") if v["name"] == "hrvmamba_base")
    weights = {k: torch.empty(s, device="meta") for k, s in variant["state_dict"].items()}
    named = backbone.model.checkpoint_filter_fn(weights, backbone.model)
    own = {k for k in backbone.model.state_dict() if not k.startswith("out_norms.")}
    assert set(named) - own == {"head.fc.weight", "head.fc.bias"}
    assert own <= set(named)


def heads(model):
    """Shapes of what follows the backbone, but for what takes its maps."""
    return {n: tuple(p.shape) for n, p in model.decode_head.named_parameters() if "convs" not in n}


@pytest.mark.parametrize("kind", ["fcn", "upernet"])
def test_compared_backbones_have_equal_heads_and_budgets(kind):
    (ours, first), (theirs, second) = (
        build(f"from_scratch/{kind}_{name}_nano_camvid") for name in ("hrvmamba", "vmamba")
    )
    for model in (first, second):
        channels = model.backbone.out_channels
        wanted = model.decode_head.in_channels
        assert wanted == (sum(channels) if kind == "fcn" else channels)
        assert len(model.backbone.out_channels) == 4
    if kind == "fcn":
        assert heads(first) == heads(second)
    assert not first.backbone.model.neck_features
    for part in ("train_cfg", "param_scheduler", "optim_wrapper", "train_dataloader"):
        assert ours[part] == theirs[part]


def test_the_plain_scan_has_as_many_parameters():
    (ours, first), (theirs, second) = (
        build(f"from_scratch/{name}_dsb2018") for name in ("mhs_vm_unet", "mhs_vm_unet_cross")
    )
    assert count(first) == count(second)
    assert {n: p.shape for n, p in first.named_parameters()} == {
        n: p.shape for n, p in second.named_parameters()
    }
    attention = [any(isinstance(m, RouteAttention) for m in x.modules()) for x in (first, second)]
    assert attention == [True, False]
    for part in ("train_cfg", "param_scheduler", "optim_wrapper", "train_dataloader"):
        assert ours[part] == theirs[part]


def test_the_fcn_head_sees_every_branch():
    _, model = build("from_scratch/fcn_hrvmamba_nano_camvid")
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    for buffer in model.buffers():
        buffer.fill_(1)
    maps = [torch.randn(2, c, 12 // 2**i or 1, 16 // 2**i or 1).requires_grad_()
            for i, c in enumerate(model.backbone.out_channels)]  # fmt: skip
    logits = model.decode_head(tuple(maps))
    assert logits.shape == (2, 11, 12, 16)
    logits.square().sum().backward()
    assert all(m.grad.abs().sum() > 0 for m in maps)
