"""What is Vim's own."""

import pytest
import timm
import torch
from golden import load_case
from torch import nn

import statescan
from statescan.scans.routes import ClassToken, Reverse, column, raster

CASE = load_case("vim/a")


def image(*size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_tokens_are_the_authors_with_the_class_token_first():
    model = statescan.from_official("vim", CASE.kwargs, CASE.group("sd.")).eval()
    want = CASE.tensors["cls.norm_f"]
    middle = (want.shape[1] - 1) // 2
    order = [middle, *(i for i in range(want.shape[1]) if i != middle)]
    torch.testing.assert_close(
        model.forward_features(CASE.tensors["x"]), want[:, order], rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_classification_weights_in_a_model_without_class_token():
    """The class token's position goes, not the first patch's as in the authors' segmenter."""
    official = CASE.group("sd.")
    model = statescan.from_official("vim", CASE.kwargs, official, class_token=False).eval()
    positions = official["pos_embed"]
    assert torch.equal(model.pos_embed, torch.cat([positions[:, :4], positions[:, 5:]], dim=1))
    assert model(CASE.tensors["x"]).isfinite().all()


@torch.no_grad()
def test_positions_of_another_image_size():
    """Resampled when they are loaded or when they are used, it is the same."""
    small = statescan.from_official("vim", CASE.kwargs, CASE.group("sd.")).eval()
    large = statescan.from_official(
        "vim", CASE.kwargs | {"img_size": (96, 64)}, CASE.group("sd.")
    ).eval()
    assert large.pos_embed.shape[1] == 25
    x = image(96, 64)
    torch.testing.assert_close(small(x), large(x))


@pytest.mark.parametrize("class_token", [True, False])
def test_other_routes_by_one_keyword(class_token):
    model = timm.create_model("test_vim", routes="hilbert", class_token=class_token)
    model(image(40, 56)).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())
    two = timm.create_model("test_vim", routes=(column, Reverse(raster)), class_token=class_token)
    routes = two.blocks[0].mixer.s6.routes
    if class_token:
        assert routes == (ClassToken(column), Reverse(ClassToken(raster)))
    else:
        assert routes == (column, Reverse(raster))


def test_pooling():
    model = timm.create_model("test_vim").eval()
    features = model.forward_features(image(64, 64))
    assert torch.equal(model.forward_head(features, pre_logits=True), features[:, 0])
    model.reset_classifier(5, "avg")
    torch.testing.assert_close(
        model.forward_head(features, pre_logits=True), features[:, 1:].mean(1)
    )
    model.reset_classifier(5, "token")
    assert torch.equal(model.forward_head(features, pre_logits=True), features[:, 0])
    with pytest.raises(ValueError, match="global_pool is 'token', but this model has no class tok"):
        timm.create_model("test_vim", class_token=False, global_pool="token")


@torch.no_grad()
def test_pyramid():
    """Four maps at strides 4 to 32, as features alone too."""
    model = timm.create_model(
        "vim_tiny", depth=4, dim=16, pyramid=(0, 1, 2, 3), features_only=True, out_indices=(1, 3)
    ).eval()
    assert model.feature_info.reduction() == [8, 32]
    assert [tuple(m.shape[2:]) for m in model(image(64, 96))] == [(8, 12), (2, 3)]
    assert set(model.model.out_norms) == {"1", "3"}
    with pytest.raises(ValueError, match=r"pyramid is \(0, 0, 1, 2, 3\), expected at most 4 block"):
        timm.create_model("test_vim", pyramid=(0, 0, 1, 2, 3))


def test_patches_overlap_with_a_stride_of_8():
    model = timm.create_model("vim_tiny_stride8", device="meta")
    assert model.grid_size == (27, 27)
    assert model.feature_info[0]["reduction"] == 8


def test_drop_path_rises_to_its_rate_over_all_blocks():
    model = timm.create_model("vim_tiny", drop_path_rate=0.23, device="meta")
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in model.blocks]
    torch.testing.assert_close(rates, torch.linspace(0, 0.23, 24).tolist())


def test_norms_have_the_authors_epsilon():
    model = timm.create_model("vim_tiny", device="meta")
    norms = [m for m in model.modules() if isinstance(m, nn.RMSNorm)]
    assert len(norms) == 25
    assert {m.eps for m in norms} == {1e-5}


def test_positions_do_not_decay():
    names = timm.create_model("vim_tiny", device="meta").no_weight_decay()
    assert {"pos_embed", "cls_token", "blocks.3.mixer.s6.A_log"} < names


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"bimamba_type": "v1"}, "bimamba_type is 'v1', expected one of 'v2'"),
        ({"rms_norm": False}, "rms_norm is False, expected one of True"),
        ({"if_rope": True}, "if_rope_residual is False, expected one of True"),
        ({"if_cls_token": False, "final_pool_type": "max"}, "final_pool_type is 'max', expected"),
        ({"use_residual_as_feature": True}, "last_layer_process is 'none', expected one of 'add'"),
    ],
)
def test_unpublished_official_arguments_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        statescan.from_official("vim", CASE.kwargs | change)


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match="features is 'map', expected one of"):
        timm.create_model("test_vim", features="map")
    with pytest.raises(ValueError, match="rope is 14, but a class token has no place in the grid"):
        timm.create_model("test_vim", rope=14)
