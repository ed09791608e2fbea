import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

import statescan.mm  # noqa: F401  registers the constructor


class Backbone(nn.Module):
    """Two layers; the second one's weight asks for no decay."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def no_weight_decay(self):
        return {"head.weight"}

    def group_matcher(self, coarse=False):
        return {"stem": r"^stem", "blocks": [(r"^head", (1,))]}


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()

    def forward(self, x):
        return self.backbone.head(self.backbone.stem(x))


def build(model, **kwargs):
    optimizer = {"type": "AdamW", "lr": 1e-2, "weight_decay": 0.05}
    constructor = "TimmOptimWrapperConstructor"
    return build_optim_wrapper(
        model, {"constructor": constructor, "optimizer": optimizer, **kwargs}
    )


def settings(model, wrapper) -> dict:
    """(lr, weight decay) of each parameter."""
    names = {id(parameter): name for name, parameter in model.backbone.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in wrapper.optimizer.param_groups
        for parameter in group["params"]
    }


def test_no_decay_for_vectors_and_what_the_model_names():
    model = Classifier()
    assert settings(model, build(model)) == {
        "stem.weight": (1e-2, 0.05),
        "stem.bias": (1e-2, 0.0),
        "head.weight": (1e-2, 0.0),
        "head.bias": (1e-2, 0.0),
    }


def test_layer_decay_lowers_the_rate_towards_the_stem():
    model = Classifier()
    found = settings(model, build(model, paramwise_cfg={"layer_decay": 0.5}))
    assert found["stem.weight"][0] == pytest.approx(found["head.weight"][0] / 2)
    assert all("lr_scale" not in group for group in build(model).optimizer.param_groups)


def test_bf16_forward_float32_weights():
    model = Classifier()
    wrapper = build(model, type="Bf16OptimWrapper", clip_grad={"max_norm": 1.0})
    with wrapper.optim_context(model):
        output = model(torch.ones(2, 4))
    assert output.dtype == torch.bfloat16
    before = model.backbone.stem.weight.clone()
    wrapper.update_params(output.float().square().mean())
    assert model.backbone.stem.weight.dtype == torch.float32
    assert not torch.equal(model.backbone.stem.weight, before)
