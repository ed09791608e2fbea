"""MHS-VM's U-Net through MMSegmentation's EncoderDecoder: the authors' masks, and losses."""

import numpy as np
import pytest
import torch
from golden import case_names, load_case
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from statescan.backbones.mhs_vm import from_official_kwargs
from statescan.mm import InputError
from statescan.mm.models.backbone import read_fitting, rename_backbones
from statescan.mm.models.unet import BceDiceLoss, LogitsHead, StateScanUNet

CASES = [load_case(name) for name in case_names(["mhs_vm"])]
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kwargs['num_classes']}")


def segmenter(logits=1, classes=None, test_cfg=None, **backbone):
    """A segmenter around the smallest U-Net."""
    config = ConfigDict(
        type="EncoderDecoder",
        data_preprocessor={"type": "SegDataPreProcessor", "size": (48, 48)},
        backbone={
            "type": "StateScanUNet",
            "name": "test_mhs_vm_unet",
            "num_classes": logits,
            **backbone,
        },
        decode_head={
            "type": "LogitsHead",
            "in_channels": logits,
            "num_classes": classes or max(logits, 2),
        },
        test_cfg=test_cfg or {"mode": "whole"},
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(config)


def official(case, **kwargs):
    """A segmenter of a fixture's sizes."""
    sizes = from_official_kwargs(**case.kwargs)
    return segmenter(sizes.pop("num_classes"), name="mhs_vm_unet_4h", **sizes, **kwargs)


def samples(labels):
    size = tuple(labels.shape[-2:])
    meta = {"img_shape": size, "ori_shape": size}
    return [
        SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=label[None])) for label in labels
    ]


def image(height, width, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.manual_seed(1))


def written(case, folder, **changes):
    path = folder / "best_4h.pth"
    torch.save(case.group("sd.") | changes, path)
    return path


@by_case
def test_official_weights_give_the_official_logits_and_gradients(case, tmp_path):
    model = official(case, checkpoint_path=str(written(case, tmp_path))).eval()
    model.init_weights()
    x = case.tensors["x"].clone().requires_grad_()
    logits = model(x, mode="tensor")
    (logits * case.tensors["w"]).sum().backward()
    for name, got in (("logits", logits), ("grad.x", x.grad)):
        error = (got - case.tensors[name]).abs().max() / case.tensors[name].abs().max()
        assert error < case.tolerance(name, 3e-5), name


@by_case
@torch.no_grad()
def test_predictions_are_the_official_masks(case):
    model = official(case).eval()
    model.backbone.model.load_state_dict(case.group("sd."))
    results = model(case.tensors["x"], mode="predict")
    for result, logits in zip(results, case.tensors["logits"], strict=True):
        binary = len(logits) == 1
        want = logits.sigmoid() if binary else logits
        error = (result.seg_logits.data - want).abs().max() / want.abs().max()
        assert error < case.tolerance("logits", 3e-5)
        label = logits > 0 if binary else logits.argmax(0, keepdim=True)
        assert (result.pred_sem_seg.data != label).float().mean() < 1e-3  # ties


@by_case
def test_the_authors_file_is_a_checkpoint_of_the_whole_segmenter(case, tmp_path):
    model = official(case)
    weights = read_fitting(written(case, tmp_path), model)["state_dict"]
    model.load_state_dict(weights)
    again = rename_backbones(model.state_dict(), model)
    assert all(torch.equal(again[k], v) for k, v in weights.items())


def test_weights_are_read_strictly(tmp_path):
    case = CASES[0]
    key = "vmunet.final_conv.weight"
    for change in ({key: torch.zeros(5, 4, 1, 1)}, {"vmunet.more": torch.zeros(1)}):
        model = official(case, checkpoint_path=str(written(case, tmp_path, **change)))
        with pytest.raises(InputError, match=r"checkpoint .*best_4h\.pth"):
            model.init_weights()


@torch.no_grad()
def test_windows_are_averaged_where_they_overlap():
    model = segmenter(test_cfg={"mode": "slide", "crop_size": (32, 32), "stride": (16, 32)}).eval()
    x = image(48, 32)
    total = torch.zeros(2, 1, 48, 32)
    for top in (0, 16):
        total[:, :, top : top + 32] += model(x[:, :, top : top + 32], mode="tensor")
    total[:, :, 16:32] /= 2
    for result, logits in zip(model(x, mode="predict"), total, strict=True):
        torch.testing.assert_close(result.seg_logits.data, logits.sigmoid())


@torch.no_grad()
def test_images_far_from_the_training_shape():
    model = segmenter(dims=(8, 8, 8, 8), d_state=1).eval()
    (result,) = model(image(300, 4000, batch=1), mode="predict")
    assert result.pred_sem_seg.data.shape == (1, 300, 4000)
    assert result.seg_logits.data.isfinite().all()


@pytest.mark.parametrize(("logits", "classes"), [(1, 2), (2, 2), (4, 4)])
def test_a_training_step_moves_every_weight_and_lowers_the_loss(logits, classes):
    model = segmenter(logits, classes, drop_path_rate=0.1).train()
    labels = torch.randint(0, classes, (2, 32, 40), generator=torch.manual_seed(2))
    labels[0, :8] = 255
    data = {"inputs": list(image(32, 40)), "data_samples": samples(labels)}
    optim = {
        "constructor": "TimmOptimWrapperConstructor",
        "optimizer": {"type": "AdamW", "lr": 2e-3},
    }
    wrapper = build_optim_wrapper(model, optim)
    before = {name: p.clone() for name, p in model.named_parameters()}
    losses = [model.train_step(data, wrapper)["loss"].item() for _ in range(5)]
    assert not [name for name, p in model.named_parameters() if p.equal(before[name])]
    assert losses[-1] < losses[0]
    results = model.eval().test_step(
        {"inputs": list(image(32, 40)), "data_samples": samples(labels)}
    )
    assert int(results[0].pred_sem_seg.data.max()) < classes


def literal_loss(logits, labels, ignored=255):
    """The published loss, pixel by pixel in float64; ignored pixels are not there."""
    entropies, dices = [], []
    for one, truth in zip(logits.double().numpy(), labels.numpy(), strict=True):
        overlap = probabilities = foreground = 0.0
        for z, g in zip(one.ravel(), truth.ravel(), strict=True):
            if g != ignored:
                p = 1 / (1 + np.exp(-z))
                entropies.append(-np.log(p) if g else -np.log(1 - p))
                overlap, probabilities, foreground = (
                    overlap + p * g,
                    probabilities + p,
                    foreground + g,
                )
        dices.append((2 * overlap + 1) / (probabilities + foreground + 1))
    return np.mean(entropies), 1 - np.mean(dices)


@pytest.mark.parametrize("kind", ["mixed", "ignored", "background"])
def test_bce_dice_is_the_published_formula(kind):
    generator = torch.manual_seed(3)
    logits = 3 * torch.randn(3, 1, 9, 7, generator=generator)
    labels = torch.randint(0, 2, (3, 9, 7), generator=generator)
    if kind == "ignored":
        labels[1, :4] = 255
    if kind == "background":
        labels.zero_()
    bce, dice = literal_loss(logits, labels)
    got = BceDiceLoss(bce_weight=0.5, dice_weight=2.0)(logits, labels)
    assert got.item() == pytest.approx(0.5 * bce + 2 * dice, rel=1e-5)


def test_bce_dice_survives_large_logits_half_precision_and_nothing_known():
    logits = torch.tensor([-3e4, 3e4, -3e4, 3e4]).reshape(1, 1, 2, 2).requires_grad_()
    labels = torch.tensor([[[0, 1], [1, 0]]])
    for value in (logits, logits.half()):
        loss = BceDiceLoss()(value, labels)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()
    assert BceDiceLoss()(logits, torch.full_like(labels, 255)).item() == 0.0


def test_weights_of_pixels_are_those_of_the_cross_entropy():
    logits, labels = torch.zeros(1, 1, 1, 2), torch.tensor([[[0, 1]]])
    plain = BceDiceLoss(dice_weight=0)
    assert plain(logits, labels, torch.tensor([[[0.0, 2.0]]])) == plain(logits, labels)
    assert plain(logits, labels, torch.zeros(1, 1, 2)) == 0


def test_the_logged_accuracy_is_that_of_the_threshold():
    head = LogitsHead(1, 2, threshold=0.7)
    logits = torch.tensor([-1.0, 0.5, 0.8, 0.9]).reshape(1, 1, 2, 2)  # 0.7 is a logit of 0.847
    losses = head.loss_by_feat(logits, samples(torch.tensor([[[0, 1], [1, 1]]])))
    assert losses["acc_seg"].item() == 50.0
    assert losses["loss_bce_dice"] > 0


@pytest.mark.parametrize(
    ("backbone", "sentence"),
    [
        (
            {"name": "test_mhs_vm_unnet"},
            "no U-Net 'test_mhs_vm_unnet': did you mean 'test_mhs_vm_un",
        ),
        ({"name": "vmamba_nano"}, "there is no U-Net 'vmamba_nano'"),
        ({"frozen_stages": 9}, "frozen_stages is 9, expected -1 to 4"),
    ],
)
def test_bad_backbones(backbone, sentence):
    with pytest.raises(InputError, match=sentence):
        StateScanUNet(**{"name": "test_mhs_vm_unet", **backbone})


@pytest.mark.parametrize(("logits", "classes"), [(1, 3), (3, 2), (2, 5)])
def test_logits_that_do_not_fit_the_classes(logits, classes):
    with pytest.raises(InputError, match=f"in_channels is {logits} for num_classes {classes}"):
        LogitsHead(logits, classes)


def test_a_backbone_of_other_classes_than_the_head():
    model = segmenter(3)
    model.backbone.model.reset_classifier(2)
    with pytest.raises(InputError, match=r"in_channels is 3, but the backbone gives 2 logits"):
        model(image(32, 32), mode="tensor")


def test_frozen_stages_are_the_encoders():
    backbone = StateScanUNet("test_mhs_vm_unet", frozen_stages=2)
    frozen = {n.split(".")[1] for n, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "stages"}
    assert all(p.requires_grad for p in backbone.model.decoder.parameters())
    assert all(p.requires_grad for p in backbone.model.stages[2:].parameters())
