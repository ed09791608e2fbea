"""LocalVMamba: VMamba's first version with scans inside windows, other ones in every block.

Paper: Huang et al., LocalMamba: Visual State Space Model with Windowed Selective Scan, 2024,
arXiv 2403.09338.
Official code and weights: https://github.com/hunto/LocalMamba (Apache-2.0).

For each block the authors' search chose four of eight directions: rows `h`, columns `v`, windows of
2x2 `w2` or 7x7 `w7`, and each of them from its end, `_flip`.
"""

from collections.abc import Mapping, Sequence

from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..layers import AttentiveSum
from ..scans import Route
from . import vmamba
from ._build import build, imagenet_cfg
from ._checkpoint import rename
from ._local import local_routes
from ._official import refuse_unpublished

__all__ = ["LocalVMamba"]

UNSEARCHED = local_routes([("h", "h_flip", "w7", "w7_flip")])[0]


class LocalVMamba(vmamba.VMamba):
    """LocalVMamba image model, any image size.

    Windows that do not fit into the map are filled with zeros after the convolution, and those are
    scanned too, as by the authors.

    Args:
        routes: scan routes, as in `Scan2d`; or a sequence of such sequences, one for each block.
        **options: arguments of `VMamba`, by default those of its first version, whose routes are
            merged under channel attention.
    """

    def __init__(
        self,
        *,
        routes: str | Sequence[str | Route] | Sequence[Sequence[str | Route]] = UNSEARCHED,
        **options,
    ):
        super().__init__(
            **{**vmamba.first_version(9, 96), "merge": AttentiveSum, **options, "routes": routes}
        )

    @staticmethod
    def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict:
        """`checkpoint_filter_fn` of this file, so that every way of loading weights passes it."""
        return checkpoint_filter_fn(state_dict, model)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' state_dict under our names and shapes; ours is returned unchanged.

    Takes the out-norms of detection backbones too. Nothing is dropped.
    """
    return vmamba.checkpoint_filter_fn(rename(state_dict, OFFICIAL_NAMES), model)


OFFICIAL_NAMES = (
    (r"\.op\.multi_scan\.attn\.", ".scan.s6.merge."),
    (r"\.merge\.global_reduce\.", ".merge.fc1."),
    (r"\.merge\.channel_select\.", ".merge.fc2."),
)


def from_official_kwargs(directions: Sequence[Sequence[str]], d_state: int = 16, **vssm) -> dict:
    """Arguments of `LocalVMamba` for those of the authors' `VSSM`.

    Args:
        directions: names of every block's directions.
        d_state: what the authors' entry points pass without effect; `ssm_d_state` has one.
        **vssm: arguments that VMamba's `VSSM` has too, with its defaults.

    Raises:
        ValueError: for a choice that no published model makes, naming it.
    """
    refuse_unpublished(d_state=(d_state, 16))
    kwargs = vmamba.from_official_kwargs(
        **vssm,
        forward_type="v0",
        mlp_ratio=0.0,
        patchembed_version="v1",
        downsample_version="v1",
    )
    return kwargs | {"routes": local_routes(directions)}


def _cfg(file: str = "", **kwargs) -> dict:
    releases = "https://github.com/hunto/LocalMamba/releases/download/v1.0.0"
    return imagenet_cfg(
        url=f"{releases}/{file}" if file else "",
        first_conv="stem.conv",
        license="apache-2.0",
        paper_ids="arXiv:2403.09338",
        paper_name="LocalMamba: Visual State Space Model with Windowed Selective Scan",
        origin_url="https://github.com/hunto/LocalMamba",
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        "localvmamba_tiny.in1k": _cfg(),  # its weights were never published
        "localvmamba_small.in1k": _cfg("local_vssm_small.ckpt"),
        "test_localvmamba.untrained": _cfg(input_size=(3, 64, 64), pool_size=(2, 2)),
    }
)

# The directions that the search found, a row a block.
TINY = """
    h h_flip w7 w7_flip
    h_flip v_flip w2 w2_flip
    h_flip v_flip w2_flip w7
    h_flip v v_flip w2
    h h_flip v_flip w2_flip
    h_flip v_flip w2 w2_flip
    h w2_flip w7 w7_flip
    h h_flip v v_flip
    h v_flip w7 w7_flip
    h_flip v w2 w7_flip
    v v_flip w2 w7_flip
    h h_flip v_flip w2_flip
    v_flip w2_flip w7 w7_flip
    h_flip v_flip w2_flip w7_flip
    h_flip v w7 w7_flip
"""

SMALL = """
    h v v_flip w7_flip
    h h_flip v w7
    h_flip v v_flip w7
    h_flip v w2_flip w7
    h_flip v w2_flip w7
    h_flip v_flip w2 w7_flip
    h_flip v v_flip w7
    h v v_flip w7
    h v v_flip w7
    h v v_flip w7_flip
    h h_flip v v_flip
    h v v_flip w2
    v v_flip w2_flip w7
    h h_flip v w2
    h_flip v v_flip w7_flip
    h h_flip v v_flip
    h v v_flip w7_flip
    h v v_flip w7_flip
    h h_flip v_flip w7
    h_flip v_flip w2_flip w7
    h_flip v v_flip w7_flip
    v v_flip w7 w7_flip
    h v v_flip w7_flip
    h_flip v v_flip w2
    h v v_flip w2_flip
    h h_flip v w7
    h h_flip w7 w7_flip
    h v_flip w2 w2_flip
    h v_flip w2 w7
    h v v_flip w7_flip
    h_flip v w2_flip w7
    h_flip v_flip w7 w7_flip
    h v w7 w7_flip
"""


def _searched(table: str) -> tuple[tuple[Route, ...], ...]:
    return local_routes([row.split() for row in table.strip().splitlines()])


@register_model
def localvmamba_tiny(pretrained: bool = False, **kwargs) -> LocalVMamba:
    """LocalVMamba-T: 25.5 M parameters, 82.7 % top-1 as published."""
    model = {**vmamba.first_version(9, 96), "routes": _searched(TINY)}
    return build(LocalVMamba, "localvmamba_tiny", pretrained, **{**model, **kwargs})


@register_model
def localvmamba_small(pretrained: bool = False, **kwargs) -> LocalVMamba:
    """LocalVMamba-S: 49.7 M parameters, 83.7 % top-1 as published."""
    model = {**vmamba.first_version(27, 96), "routes": _searched(SMALL)}
    return build(LocalVMamba, "localvmamba_small", pretrained, **{**model, **kwargs})


@register_model
def test_localvmamba(pretrained: bool = False, **kwargs) -> LocalVMamba:
    """The smallest LocalVMamba, for tests."""
    directions = "h v_flip w2 w7_flip\n" * 2 + "h_flip v w2_flip w7\n" * 2
    model = {
        "depths": (1, 1, 1, 1),
        "dims": (8, 16, 24, 32),
        "d_state": 2,
        "routes": _searched(directions),
    }
    return build(LocalVMamba, "test_localvmamba", pretrained, **{**model, **kwargs})
