"""Our models against the authors' code, for every golden fixture at hand."""

import pytest
import timm
import torch
from golden import case_names, load_case, load_variants
from mistakes import MISTAKES

import statescan
from statescan.backbones import mamba_yolo_detector

# Published variants of each family, in the order of its variants.json.
VARIANTS = {
    "vmamba": [
        *("vmamba_v0_tiny", "vmamba_v0_small", "vmamba_v0_base"),
        *("vmamba_tiny_s2l5", "vmamba_small_s2l15", "vmamba_base_s2l15"),
        *("vmamba_tiny_s1l8", "vmamba_small_s1l20", "vmamba_base_s1l20"),
    ],
    "spatial_mamba": ["spatial_mamba_tiny", "spatial_mamba_small", "spatial_mamba_base"],
    "efficientvmamba": [f"efficientvmamba_{size}" for size in ("tiny", "small", "base")],
    "localvmamba": ["localvmamba_tiny", "localvmamba_small"],
    "groupmamba": ["groupmamba_tiny", "groupmamba_small", "groupmamba_base"],
    "msvmamba": ["msvmamba_nano", "msvmamba_micro", "msvmamba_tiny"],
    "msvmamba_v3": ["msvmamba_v3_tiny", "msvmamba_v3_small", "msvmamba_v3_base"],
    "vssd": ["vssd_micro", "vssd_tiny", "vssd_small", "vssd_base"],
    "vim": ["vim_tiny", "vim_tiny_stride8", "vim_small", "vim_small_stride8", "vim_base"],
    "localvim": ["localvim_tiny", "localvim_tiny_class_token", "localvim_small"],
    "hrvmamba": [f"hrvmamba_{size}" for size in ("nano", "tiny", "small", "base")],
    "plainmamba": ["plainmamba_l1", "plainmamba_l2", "plainmamba_l3"],
    "mamba_yolo": ["mamba_yolo_tiny", "mamba_yolo_medium", "mamba_yolo_large"],
    "mhs_vm": ["mhs_vm_unet_3h", "mhs_vm_unet_4h"],
}
# What was published with more around it than a registered name makes.
BUILDERS = {"mamba_yolo": mamba_yolo_detector}
# Arguments of the authors' backbones that keep them from finishing their maps.
UNFINISHED = {"vim": {"if_fpn": False}}
# Named by their authors, but their files were never published, or it is not known where.
UNPUBLISHED = ("localvmamba_tiny", "localvim_small", *VARIANTS["mamba_yolo"])
NAMED_VARIANTS = [
    pytest.param(family, name, variant, id=name)
    for family, names in VARIANTS.items()
    for name, variant in zip(names, load_variants(family), strict=True)
]

# Largest error relative to the largest value, where a fixture's own noise does not allow for more.
# The fixtures are float32: their distance to float64 reaches 7e-6 in values, 1.4e-5 in gradients.
VALUE_TOLERANCE, GRADIENT_TOLERANCE = 1.5e-5, 3e-5


def relative_error(got, want):
    return ((got - want).abs().max() / want.abs().max()).item()


def official_model(case):
    return with_mistakes(case, case.kwargs, case.group("sd."))


def with_mistakes(case, kwargs, weights):
    model = statescan.from_official(case.family, kwargs, weights).eval()
    MISTAKES.get(case.family, lambda model: None)(model)
    return model


def official_backbone(case, finished=True):
    kwargs = {} if finished else UNFINISHED.get(case.family, {})
    kwargs = case.kwargs | case.wrapper_kwargs | kwargs
    model = with_mistakes(case, kwargs, case.backbone_weights(finished))
    return getattr(model, "backbone", model)


def as_one(outputs):
    """Logits; of a detector its raw maps one after the other, cell by cell."""
    if isinstance(outputs, torch.Tensor):
        return outputs
    return torch.cat([m.flatten(2) for m in outputs], dim=2)


def official_gradients(case, model):
    """The fixture's gradients under our names; NaN where it has none."""
    gradients = case.group("grad.p.")
    assert gradients
    nothing = {k: torch.full(v.shape, torch.nan) for k, v in case.group("sd.").items()}
    named = model.checkpoint_filter_fn(nothing | gradients, model)
    named = {k: g for k, g in named.items() if not g.isnan().all()}
    assert sum(g.isfinite().sum() for g in named.values()) == sum(
        g.numel() for g in gradients.values()
    )
    return named


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", case_names(VARIANTS))
def test_logits_maps_and_gradients(name, dtype):
    case = load_case(name)
    model = official_model(case).to(dtype)
    x = case.tensors["x"].to(dtype, copy=True).requires_grad_()
    logits = as_one(model(x))
    (logits * case.tensors["w"]).sum().backward()
    with torch.no_grad():
        maps = official_backbone(case).to(dtype).forward_intermediates(x, intermediates_only=True)

    def assert_close(got, name, least=VALUE_TOLERANCE):
        error = relative_error(got, case.tensors[name])
        assert error < case.tolerance(name, least), f"{name}: {error:.1e}"

    assert_close(logits, "logits")
    for feature, map_name in zip(maps, case.map_names(), strict=True):
        assert_close(feature, map_name)
    assert_close(x.grad, "grad.x", GRADIENT_TOLERANCE)
    parameters = dict(model.named_parameters())
    tolerance = max(
        case.tolerance(name, GRADIENT_TOLERANCE) for name in case.tensors if "grad.p." in name
    )
    for key, gradient in official_gradients(case, model).items():
        known = ~gradient.isnan()
        error = relative_error(parameters[key].grad[known], gradient[known])
        assert error < tolerance, f"{key}: {error:.1e}"


@pytest.mark.parametrize("name", case_names(VARIANTS))
@torch.no_grad()
def test_maps_without_out_norms(name):
    case = load_case(name)
    model = official_backbone(case, finished=False)
    maps = model.forward_intermediates(case.tensors["x"], intermediates_only=True)
    # Where the authors finish no map, the fixture has the maps only once.
    once = dict(enumerate(case.tensors[name] for name in case.map_names()))
    for i, want in (case.group("stage.") or once).items():
        assert relative_error(maps[int(i)], want) < VALUE_TOLERANCE, f"stage {i}"


@pytest.mark.parametrize(("family", "name", "variant"), NAMED_VARIANTS)
def test_published_variant_fits_key_for_key(family, name, variant):
    weights = {k: torch.empty(s, device="meta") for k, s in variant["state_dict"].items()}
    for model in (
        BUILDERS.get(family, timm.create_model)(name, device="meta"),
        statescan.from_official(family, variant["kwargs"], device="meta"),
    ):
        assert sum(p.numel() for p in model.parameters()) == variant["params"]
        model.load_state_dict(weights, assign=True)


@pytest.mark.parametrize(("family", "name", "variant"), NAMED_VARIANTS)
def test_pretrained_points_at_the_published_file(family, name, variant):
    cfg = timm.create_model(name, device="meta").pretrained_cfg
    if name in UNPUBLISHED:
        assert not cfg.get("url")
    elif variant["checkpoint_url_name"] and "Google-Drive" not in variant["checkpoint_url_name"]:
        file = cfg["hf_hub_filename"] if "hf_hub_id" in cfg else cfg["url"].rpartition("/")[2]
        assert file == variant["checkpoint_url_name"].partition(" (")[0]  # then where it is named
    else:
        assert cfg.get("description", "").startswith("weights: Google Drive ")
    size = variant["input_size"]
    assert cfg["input_size"][1] == (size if isinstance(size, int) else size[1])
