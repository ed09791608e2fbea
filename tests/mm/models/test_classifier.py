import pytest
import timm
import torch
from mmengine.registry import MODELS

from statescan.mm import InputError


def build(**kwargs):
    backbone = {"name": "test_convnext", "num_classes": 4, **kwargs.pop("backbone", {})}
    loss = kwargs.pop("loss", {"type": "CrossEntropyLoss"})
    return MODELS.build({"type": "ImageClassifier", "backbone": backbone, "loss": loss, **kwargs})


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, 32, 32, generator=generator), torch.arange(6) % 4


def test_tensor_gives_logits(batch):
    assert build()(batch[0]).shape == (6, 4)


def test_predict_gives_scores_and_label_of_each_image(batch):
    samples = build().eval()(*batch, mode="predict")
    assert [int(sample["label"]) for sample in samples] == [0, 1, 2, 3, 0, 1]
    for sample in samples:
        assert sample["scores"].shape == (4,)
        torch.testing.assert_close(sample["scores"].sum(), torch.tensor(1.0))


def test_predict_needs_no_labels(batch):
    assert build()(batch[0], mode="predict")[0]["label"] is None


def test_loss_is_that_of_the_logits(batch):
    model = build(loss={"type": "LabelSmoothingCrossEntropy", "smoothing": 0.2}).eval()
    expected = torch.nn.functional.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.2)
    torch.testing.assert_close(model(*batch, mode="loss")["loss"], expected)


def test_mixup_changes_the_loss_only(batch):
    model = build(loss={"type": "SoftTargetCrossEntropy"}, mixup={"mixup_alpha": 0.8})
    images = batch[0].clone()
    assert torch.isfinite(model(images, batch[1], mode="loss")["loss"])
    assert not torch.equal(images, batch[0])
    assert model(*batch, mode="predict")[0]["scores"].shape == (4,)


def test_weights_stay_as_timm_made_them():
    torch.manual_seed(0)
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_unknown_model_names_the_nearest():
    with pytest.raises(InputError, match=r"no model 'resnet51': did you mean 'resnet51q'"):
        build(backbone={"name": "resnet51"})


def test_unknown_mode(batch):
    with pytest.raises(ValueError, match="mode is 'train', expected 'tensor', 'predict' or 'loss'"):
        build()(*batch, mode="train")


def test_our_models_are_known():
    build(backbone={"name": "test_vmamba", "in_chans": 1})
    assert "vmamba_nano" in timm.list_models("vmamba*")
