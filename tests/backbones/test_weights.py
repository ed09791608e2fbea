"""Loading weights: every road leads through the same filter, and nothing is lost in silence."""

import argparse
import re
import sys
import types

import pytest
import timm
import torch
from golden import load_case
from safetensors.torch import save_file

import statescan
from statescan import from_official, read_checkpoint

CASE = load_case("vmamba/a")
OFFICIAL = CASE.group("sd.")
OUR_KWARGS = {"depths": (1, 1, 2, 1), "dims": (6, 12, 24, 48), "num_classes": 10}


def create(**kwargs):
    return timm.create_model("test_vmamba", **OUR_KWARGS, **kwargs)


def logits(model):
    with torch.no_grad():
        return model.eval()(CASE.tensors["x"])


def assert_official(model):
    torch.testing.assert_close(logits(model), CASE.tensors["logits"], rtol=1e-5, atol=1e-5)


def first_release_names(state_dict):
    """The names that the first release's checkpoints carry."""
    rules = [
        (r"^patch_embed\.0\.", "patch_embed.proj."),
        (r"^patch_embed\.2\.", "patch_embed.norm."),
        (r"(\.blocks\.\d+)\.norm\.", r"\1.ln_1."),
        (r"\.op\.", ".self_attention."),
        (r"^classifier\.", ""),
    ]
    renamed = {}
    for key, value in state_dict.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def test_official_weights_through_load_state_dict():
    model = create()
    model.load_state_dict(OFFICIAL)
    assert_official(model)


def test_first_release_names():
    old = first_release_names(OFFICIAL)
    assert "layers.0.blocks.0.self_attention.A_logs" in old
    assert "norm.weight" in old
    assert_official(from_official("vmamba", CASE.kwargs, old))


def test_one_by_one_convolutions_become_linear_layers():
    convolved = {
        k: v[:, :, None, None] if re.search(r"(fc\d|_proj|reduction)\.weight", k) else v
        for k, v in OFFICIAL.items()
    }
    assert_official(from_official("vmamba", CASE.kwargs, convolved))


def test_weights_under_a_prefix():
    """As a detector holds its backbone."""
    detector = torch.nn.ModuleDict({"backbone": create()})
    detector.load_state_dict({f"backbone.{k}": v for k, v in OFFICIAL.items()})
    assert_official(detector["backbone"])


@pytest.mark.parametrize("container", ["model", "state_dict", "model_ema", None])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_checkpoint_path(tmp_path, container, suffix):
    path = tmp_path / f"official.{suffix}"
    if suffix == "safetensors":
        save_file(OFFICIAL, path)
    else:
        torch.save({container: OFFICIAL} if container else OFFICIAL, path)
    assert_official(create(checkpoint_path=str(path)))
    assert_official(from_official("vmamba", CASE.kwargs, read_checkpoint(path)))


def test_pretrained_goes_through_the_filter(tmp_path):
    torch.save({"model": OFFICIAL}, tmp_path / "official.pth")
    source = {"file": str(tmp_path / "official.pth"), "num_classes": 10}
    assert_official(create(pretrained=True, pretrained_cfg_overlay=source))
    kwargs = OUR_KWARGS | {"num_classes": 3, "in_chans": 1}
    model = timm.create_model(
        "test_vmamba", pretrained=True, pretrained_cfg_overlay=source, **kwargs
    )
    torch.testing.assert_close(
        model.stem.conv1.weight, OFFICIAL["patch_embed.0.weight"].sum(1, keepdim=True)
    )
    assert torch.equal(model.norm.weight, OFFICIAL["classifier.norm.weight"])


def test_pretrained_leaves_out_norms_as_they_are(tmp_path):
    torch.save({"model": OFFICIAL}, tmp_path / "official.pth")
    source = {"file": str(tmp_path / "official.pth"), "num_classes": 10}
    model = create(pretrained=True, pretrained_cfg_overlay=source, out_norms=True)
    assert model.out_norms["3"].weight.eq(1).all()
    assert_official(model)


def test_downloaded_weights_come_out_of_their_container():
    """What timm downloads it hands over as it is; so it does with `state_dict`."""
    source = {"state_dict": {"model": OFFICIAL, "epoch": 3}, "num_classes": 10}
    assert_official(create(pretrained=True, pretrained_cfg_overlay=source))


def test_weights_without_a_url_are_explained(tmp_path):
    sentence = "weights of spatial_mamba_tiny lie on Google Drive.*`gdown 19kX.*checkpoint_path"
    with pytest.raises(RuntimeError, match=sentence):
        timm.create_model("spatial_mamba_tiny", pretrained=True)
    with pytest.raises(RuntimeError, match=r"run `gdown --folder 1J41.*` and pass its file"):
        timm.create_model("msvmamba_nano", pretrained=True)
    source = {"file": str(tmp_path / "fetched.pth")}
    torch.save(timm.create_model("test_spatial_mamba").state_dict(), source["file"])
    timm.create_model("test_spatial_mamba", pretrained=True, pretrained_cfg_overlay=source)


def test_our_own_weights_stay_as_they_are(tmp_path):
    model = create()
    save_file(model.state_dict(), tmp_path / "ours.safetensors")
    again = create(checkpoint_path=str(tmp_path / "ours.safetensors"))
    assert torch.equal(logits(model), logits(again))


def test_averaged_weights_are_preferred_and_wrappers_removed(tmp_path):
    worse = {k: torch.zeros_like(v) for k, v in OFFICIAL.items()}
    wrapped = {f"module._orig_mod.{k}": v for k, v in OFFICIAL.items()}
    torch.save(
        {"model": worse, "model_ema": wrapped, "args": argparse.Namespace(lr=1)}, tmp_path / "x.pth"
    )
    assert_official(from_official("vmamba", CASE.kwargs, read_checkpoint(tmp_path / "x.pth")))


def test_detection_backbone_without_classifier():
    weights = {k: v for k, v in OFFICIAL.items() if not k.startswith("classifier")}
    model = from_official("vmamba", CASE.kwargs, weights | CASE.group("bb."))
    maps = model.forward_intermediates(CASE.tensors["x"], intermediates_only=True)
    torch.testing.assert_close(maps[3], CASE.tensors["feat.3"], rtol=1e-5, atol=1e-5)
    assert not [n for n, _ in model.named_parameters() if n.startswith(("head", "norm"))]


def test_missing_unknown_and_misshapen_weights_are_named():
    for change, sentence in [
        ({"layers.0.blocks.0.op.Ds": None}, r"Missing key.*stages.0.blocks.0.scan.s6.D"),
        ({"layers.0.extra": torch.ones(1)}, r"Unexpected key.*stages.0.extra"),
        ({"classifier.head.bias": torch.ones(7)}, r"size mismatch for head.fc.bias"),
    ]:
        weights = {k: v for k, v in {**OFFICIAL, **change}.items() if v is not None}
        with pytest.raises(RuntimeError, match=re.compile(sentence, re.DOTALL)):
            from_official("vmamba", CASE.kwargs, weights)


def test_foreign_weights_are_refused_in_one_sentence():
    foreign = timm.create_model("test_resnet").state_dict()
    with pytest.raises(
        ValueError, match=r"holds 'conv1.0.weight' and \d+ more, none of which VMamba"
    ):
        create().load_state_dict(foreign)


def test_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint '.*none.pth' does not exist"):
        read_checkpoint(tmp_path / "none.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_checkpoint(tmp_path, suffix, share):
    path = tmp_path / f"broken.{suffix}"
    save = save_file if suffix == "safetensors" else torch.save
    save(OFFICIAL, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"checkpoint '.*broken.{suffix}' is damaged"):
        read_checkpoint(path)


def test_checkpoint_with_one_flipped_bit(tmp_path):
    path = tmp_path / "flipped.pth"
    torch.save(OFFICIAL, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"flipped.pth' is damaged .* does not match its checksum"):
        read_checkpoint(path)


def test_checkpoint_with_code_inside(tmp_path):
    torch.save({"model": OFFICIAL, "hook": pytest.raises}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"besides plain data it holds .*raises"):
        read_checkpoint(tmp_path / "code.pth")


def test_checkpoint_with_a_configuration_of_yacs(tmp_path, monkeypatch):
    """As VMamba's training code, which is Swin's, saves it; yacs itself is not needed."""
    module = types.ModuleType("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    config = module.CfgNode(MODEL=module.CfgNode(DEPTHS=[2, 2]))
    config.__dict__["__immutable__"] = True
    path = tmp_path / "vmamba.pth"
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patched.setitem(sys.modules, "yacs.config", module)
        torch.save({"model": OFFICIAL, "config": config}, path)
    assert_official(from_official("vmamba", CASE.kwargs, read_checkpoint(path)))
    assert_official(create(checkpoint_path=str(path)))
    source = {"file": str(path), "num_classes": CASE.kwargs["num_classes"]}
    assert_official(create(pretrained=True, pretrained_cfg_overlay=source))


def test_checkpoint_without_weights(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="holds no weights"):
        read_checkpoint(tmp_path / "empty.pth")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"forward_type": "v1"}, "forward_type is 'v1', expected one of 'v0', 'v2'"),
        ({"downsample_version": "v2"}, "downsample_version is 'v2', expected one of 'v1', 'v3'"),
        ({"gmlp": True}, "gmlp is True, expected one of False"),
        ({"ssm_conv": 5}, "ssm_conv is 5, expected one of 3"),
    ],
)
def test_unpublished_official_arguments_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_official("vmamba", CASE.kwargs | change)


def test_unknown_names():
    with pytest.raises(ValueError, match="family is 'vmmba': did you mean 'vmamba'"):
        from_official("vmmba", {})
    with pytest.raises(TypeError, match="unexpected keyword argument 'ssm_states'"):
        from_official("vmamba", CASE.kwargs | {"ssm_states": 1})
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model("vmamba_tinny_s1l8")
    assert "vmamba_tiny_s1l8" in statescan.list_models("vmamba_*")
