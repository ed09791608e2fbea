"""What is VSSD's own."""

import pytest
import timm
import torch
import torch.nn.functional as F
from golden import load_case
from torch import nn

import statescan
from statescan.backbones.vssd import NonCausalSSD


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "float16-model"])
def test_sum_over_many_positions_stays_finite_in_float16(autocast):
    torch.manual_seed(0)
    mixer = NonCausalSSD(16, heads=2, d_state=8)
    nn.init.constant_(mixer.conv.bias, 2.0)
    nn.init.constant_(mixer.dt_bias, 2.0)
    x = torch.randn(1, 96, 96, 16)
    want = mixer(x)
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        y = mixer(x) if autocast else mixer.half()(x.half())
    torch.testing.assert_close(y.float(), want, rtol=0.05, atol=0.05)
    y.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in mixer.parameters())


def test_tokens_have_no_order():
    """But for the 3x3 convolution, which sees no neighbours here."""
    torch.manual_seed(0)
    mixer = NonCausalSSD(8, heads=2, d_state=4)
    with torch.no_grad():
        mixer.conv.weight.copy_(mixer.conv.weight * (torch.arange(9) == 4).view(3, 3))
    x = torch.randn(2, 5, 7, 8)
    order = torch.randperm(35)
    mixed = x.flatten(1, 2)[:, order].unflatten(1, (5, 7))
    torch.testing.assert_close(
        mixer(mixed).flatten(1, 2), mixer(x).flatten(1, 2)[:, order], rtol=1e-4, atol=1e-5
    )


def test_initial_step_sizes_and_decays_are_mamba_2s():
    mixer = NonCausalSSD(256, heads=256)
    dt, rate = F.softplus(mixer.dt_bias), mixer.A_log.exp()
    assert 1e-3 <= dt.min() < 2e-3
    assert 0.08 < dt.max() <= 0.1
    assert 1 <= rate.min() < 2
    assert 15 < rate.max() <= 16


def test_norms_have_the_authors_epsilon():
    model = timm.create_model("vssd_tiny", device="meta")
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)]
    assert len(norms) > 50
    assert {m.eps for m in norms} == {1e-5}


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="heads is 3, which does not divide the 16 inner channels"):
        timm.create_model("test_vssd", heads=(3, 3, 3, 4))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ssd_positve_dA": False}, "ssd_positve_dA is False, expected one of True"),
        ({"linear_attn_duality": False}, "linear_attn_duality is False, expected one of True"),
        ({"attn_types": ["mamba2", "linear"]}, "attn_types is 'linear', expected one of 'mamba2'"),
        ({"ssd_ngroups": 2}, "ssd_ngroups is 2, expected one of 1"),
    ],
)
def test_unpublished_official_arguments_are_refused(change, sentence):
    kwargs = load_case("vssd/a").kwargs | change
    with pytest.raises(ValueError, match=sentence):
        statescan.from_official("vssd", kwargs)


def test_weights_trained_with_mesa_have_a_tag():
    cfg = timm.create_model("vssd_base.mesa_in1k", device="meta").pretrained_cfg
    assert cfg["hf_hub_filename"] == "vssd_base_e300_with_mesa.pth"
