"""Our backbones inside detectors and segmenters."""

import re
from pathlib import Path

import pytest
import torch
from golden import load_case
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from statescan import list_models
from statescan.mm import InputError, load_config
from statescan.mm.checkpoints.files import check_fits, read_training_checkpoint
from statescan.mm.models.backbone import StateScanBackbone, rename_backbones
from statescan.mm.models.neck import SimplePyramid

FOLDER = Path(__file__).parents[3] / "configs"
TINY = list_models("test_*")
CASE = load_case("vmamba/a")
SIZES = {"depths": (1, 1, 2, 1), "dims": (6, 12, 24, 48)}  # of that case
quiet = pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False:UserWarning:mmseg")


@pytest.mark.parametrize("name", TINY)
def test_maps_and_gradients_of_every_family_at_an_odd_size(name):
    backbone = StateScanBackbone(name)
    maps = backbone(torch.randn(2, 3, 70, 52))
    assert isinstance(maps, tuple)
    assert [m.shape[1] for m in maps] == backbone.out_channels
    for stride, m in zip(backbone.strides, maps, strict=True):
        assert abs(m.shape[2] - 70 / stride) <= 1
        assert abs(m.shape[3] - 52 / stride) <= 1
    sum(m.square().sum() for m in maps).backward()
    assert not [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("scope", ["mmdet", "mmseg", "mmpretrain", "mmpose", "mmengine"])
def test_registered_once_for_all(scope):
    with DefaultScope.overwrite_default_scope(scope):
        backbone = MODELS.build({"type": "StateScanBackbone", "name": "test_vmamba"})
    assert isinstance(backbone, StateScanBackbone)


def test_published_out_norms_give_the_published_maps():
    backbone = StateScanBackbone("test_vmamba", **SIZES).eval()
    backbone.load_state_dict({**CASE.group("sd."), **CASE.group("bb.")})
    for i, m in enumerate(backbone(CASE.tensors["x"])):
        torch.testing.assert_close(m, CASE.tensors[f"feat.{i}"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_autocast(dtype, checkpointing):
    torch.manual_seed(0)
    backbone = StateScanBackbone("test_vmamba", grad_checkpointing=checkpointing)
    x = torch.randn(1, 3, 33, 47)
    wanted = backbone(x)
    with torch.autocast("cpu", dtype=dtype):
        maps = backbone(x)
    for m, w in zip(maps, wanted, strict=True):
        torch.testing.assert_close(m.float(), w, rtol=0.1, atol=0.1)
    sum(m.float().sum() for m in maps).backward()
    assert all(p.grad.isfinite().all() for p in backbone.parameters())


def test_frozen_stages_and_norm_eval():
    backbone = StateScanBackbone("test_spatial_mamba", frozen_stages=2, norm_eval=True).train()
    trained = {n.split(".")[1] + n.split(".")[2] for n, p in backbone.named_parameters()
               if p.requires_grad}  # fmt: skip
    assert trained == {"stages2", "stages3", "out_norms2", "out_norms3"}
    assert not backbone.model.stem.training
    assert not backbone.model.stages[1].training
    assert backbone.model.stages[2].blocks.training
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)


def test_frozen_tokens_of_an_isotropic_model():
    backbone = StateScanBackbone("test_vim", frozen_stages=0)
    frozen = {n for n, p in backbone.named_parameters() if not p.requires_grad}
    assert {"model.pos_embed", "model.cls_token"} < frozen
    assert not any(n.startswith("model.blocks") for n in frozen)


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"name": "vmamba_tinny_s1l8"}, "no backbone 'vmamba_tinny_s1l8'.*'vmamba_tiny_s1l8'"),
        ({"out_indices": (0, 4)}, r"out_indices is \(0, 4\), expected numbers of 0 to 3"),
        ({"out_indices": (2, 1)}, r"out_indices is \(2, 1\), expected rising numbers"),
        ({"frozen_stages": 5}, "frozen_stages is 5, expected -1 to 4"),
        ({"pretrained": True, "checkpoint_path": "x"}, "only one of pretrained, checkpoint_path"),
        ({"init_cfg": {"type": "Kaiming"}}, "init_cfg has type 'Kaiming'.*expected type 'Pretr"),
    ],
)
def test_bad_arguments(kwargs, sentence):
    with pytest.raises(InputError, match=sentence):
        StateScanBackbone(**{"name": "test_vmamba", **kwargs})


def detector_file(folder, weights):
    """A file as MMEngine writes it for a detector with a neck, its log included."""
    hub = MessageHub.get_instance("a log")
    hub.update_scalar("loss", 1.5)
    state = {f"backbone.{k}": v for k, v in weights.items()} | {"neck.weight": torch.ones(2, 2)}
    path = folder / "epoch_12.pth"
    torch.save({"meta": {"epoch": 12}, "state_dict": state, "message_hub": hub.state_dict()}, path)
    return path


OFFICIAL = {
    k: v for k, v in CASE.group("sd.").items() if not k.startswith("classifier.")
} | CASE.group("bb.")


def initialised(path, **init):
    init_cfg = {"type": "Pretrained", "checkpoint": str(path), **init}
    backbone = StateScanBackbone("test_vmamba", init_cfg=init_cfg, **SIZES)
    backbone.init_weights()
    return backbone.eval()


def test_official_detector_by_prefix(tmp_path):
    backbone = initialised(detector_file(tmp_path, OFFICIAL), prefix="backbone.")
    for i, m in enumerate(backbone(CASE.tensors["x"])):
        torch.testing.assert_close(m, CASE.tensors[f"feat.{i}"], rtol=1e-5, atol=1e-5)


def test_our_own_detector_by_prefix(tmp_path):
    ours = StateScanBackbone("test_vmamba", **SIZES)
    again = initialised(detector_file(tmp_path, ours.state_dict()), prefix="backbone")
    for ours_value, value in zip(ours.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours_value, value)


def test_whole_official_detector_fits_ours(tmp_path):
    model = nn.Module()
    model.backbone = StateScanBackbone("test_vmamba", **SIZES).eval()
    model.neck = nn.Linear(2, 2, bias=False)
    path = detector_file(tmp_path, OFFICIAL)
    state_dict = read_training_checkpoint(path)["state_dict"]
    renamed = rename_backbones(state_dict, model)
    check_fits(path, renamed, model)
    model.load_state_dict(state_dict)
    maps = model.backbone(CASE.tensors["x"])
    torch.testing.assert_close(maps[3], CASE.tensors["feat.3"], rtol=1e-5, atol=1e-5)


def test_classifier_leaves_out_norms_alone(tmp_path):
    torch.save({"model": CASE.group("sd.")}, tmp_path / "classifier.pth")
    backbone = initialised(tmp_path / "classifier.pth")
    weights = backbone.model.state_dict()
    assert torch.equal(weights["stem.conv1.weight"], OFFICIAL["patch_embed.0.weight"])
    assert weights["out_norms.0.weight"].eq(1).all()


def test_strictly(tmp_path):
    short = {k: v for k, v in OFFICIAL.items() if not k.endswith("0.op.Ds")}
    with pytest.raises(InputError, match=re.compile(r"Missing key.*s6\.D", re.DOTALL)):
        initialised(detector_file(tmp_path, short), prefix="backbone.")
    path = detector_file(tmp_path, OFFICIAL)
    with pytest.raises(InputError, match=r"no weights under 'head.', only backbone., neck."):
        initialised(path, prefix="head.")
    with pytest.raises(InputError, match=r"prefix='backbone\.' would take the backbone's part"):
        initialised(path)
    extra = OFFICIAL | {"layers.0.more": torch.ones(1)}
    with pytest.raises(InputError, match=re.compile("Unexpected key.*more", re.DOTALL)):
        initialised(detector_file(tmp_path, extra), prefix="backbone.")


def test_pretrained_that_no_url_fetches():
    backbone = StateScanBackbone("spatial_mamba_tiny", pretrained=True)
    with pytest.raises(InputError, match=r"pretrained weights of spatial_mamba_tiny.*gdown"):
        backbone.init_weights()


def test_simple_pyramid():
    neck = SimplePyramid(16, out_channels=8)
    shapes = [m.shape[1:] for m in neck((torch.zeros(1, 16, 6, 5),))]
    assert shapes == [(8, 24, 20), (8, 12, 10), (8, 6, 5), (8, 3, 3), (8, 2, 2)]
    assert [m.shape[2] for m in SimplePyramid(16, 8, start=1)((torch.zeros(1, 16, 8, 8),))] == [
        *(16, 8, 4, 2, 1)
    ]


def test_optimizer_of_a_whole_model():
    model = nn.Module()
    model.backbone = StateScanBackbone("test_vmamba")
    model.neck = nn.Conv2d(4, 4, 1)
    optimizer = {"type": "AdamW", "lr": 1e-2, "weight_decay": 0.05}
    cfg = {"constructor": "TimmOptimWrapperConstructor", "optimizer": optimizer}
    groups = build_optim_wrapper(
        model, {**cfg, "paramwise_cfg": {"layer_decay": 0.5}}
    ).optimizer.param_groups
    of = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    settings = {n: of[id(p)] for n, p in model.named_parameters()}
    assert settings["neck.weight"] == (1e-2, 0.05)
    assert settings["neck.bias"] == (1e-2, 0.0)
    assert settings["backbone.model.out_norms.3.weight"] == (1e-2, 0.0)
    weight = "backbone.model.stages.{}.blocks.0.scan.in_proj.weight"
    assert settings[weight.format(3)] == (1e-2, 0.05)
    rates = [settings[weight.format(stage)][0] for stage in range(4)]
    assert settings["backbone.model.stem.conv1.weight"][0] < rates[0] < rates[1] < rates[2] < 1e-2
    for name in ("A_log", "D"):
        assert settings[f"backbone.model.stages.3.blocks.0.scan.s6.{name}"][1] == 0.0
    with pytest.raises(InputError, match="paramwise_cfg has 'custom_keys', expected layer_decay"):
        build_optim_wrapper(model, {**cfg, "paramwise_cfg": {"custom_keys": {}}})


def tiny(path, channels, **options):
    """A published recipe around the smallest VMamba."""
    config = load_config(FOLDER / path, options=options)
    config.model.backbone = {"type": "StateScanBackbone", "name": "test_vmamba"}
    for part in ("neck", "decode_head"):
        if part in config.model:
            config.model[part].in_channels = channels
    return config


def step(config, inputs, samples):
    """One training step, which moves the whole backbone, and predictions after it."""
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model)
        model.init_weights()
        wrapper = build_optim_wrapper(model, config.optim_wrapper)
        data = {"inputs": inputs, "data_samples": samples}
        before = {n: p.clone() for n, p in model.backbone.named_parameters()}
        losses = model.train().train_step(data, wrapper)
        assert not [n for n, p in model.backbone.named_parameters() if p.equal(before[n])]
        predictions = model.eval().test_step(data)
    assert torch.isfinite(losses["loss"])
    return predictions


def test_mask_rcnn_trains_a_step():
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    torch.manual_seed(0)
    config = tiny("detection/vmamba/mask_rcnn_vmamba_tiny_s1l8_1x_coco.py", [8, 16, 24, 32])
    config.model.test_cfg.rpn.max_per_img = config.model.train_cfg.rpn_proposal.max_per_img = 50
    masks = torch.zeros(1, 64, 96, dtype=torch.uint8)
    masks[:, 8:40, 8:40] = 1
    sample = DetDataSample(
        metainfo={"img_shape": (64, 96), "ori_shape": (64, 96), "scale_factor": (1.0, 1.0)},
        gt_instances=InstanceData(
            bboxes=torch.tensor([[8.0, 8, 40, 40]]),
            labels=torch.tensor([3]),
            masks=BitmapMasks(masks.numpy(), 64, 96),
        ),
    )
    image = torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)
    predictions = step(config, [image], [sample])
    assert predictions[0].pred_instances.bboxes.shape[1] == 4


@quiet
def test_upernet_trains_a_step():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    torch.manual_seed(0)
    config = tiny("segmentation/vmamba/upernet_vmamba_tiny_s1l8_160k_ade20k.py", [8, 16, 24, 32])
    config.model.auxiliary_head.in_channels = 24
    config.model.data_preprocessor.size = (64, 64)
    for head in (config.model.decode_head, config.model.auxiliary_head):
        head.norm_cfg, head.channels = {"type": "BN"}, 16
    samples = [
        SegDataSample(
            metainfo={"img_shape": (64, 64), "ori_shape": (64, 64)},
            gt_sem_seg=PixelData(data=torch.randint(0, 150, (1, 64, 64))),
        )
        for _ in range(2)
    ]
    images = [torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8) for _ in range(2)]
    predictions = step(config, images, samples)
    assert predictions[0].pred_sem_seg.data.shape == (1, 64, 64)
