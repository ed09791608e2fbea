"""What Vim and LocalVim have in common: the model around their token mixers."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from timm.layers import DropPath, apply_rot_embed_cat, calculate_drop_path_rates, to_2tuple
from torch import Tensor, nn

from ..layers import PatchEmbed, patch_grid, resample_positions, rotary_table
from ._checkpoint import rename, stack_numbered
from ._isotropic import Isotropic

FEATURES = ("stream", "input", "mixer")
RMS_NORM = partial(nn.RMSNorm, eps=1e-5)


class VisionMambaBlock(nn.Module):
    """Rotary position embedding where there is one, then a pre-norm token mixer with a residual.

    Tokens (B, L, C) of an H×W grid → tokens after the block, and what the mixer added to them.

    Args:
        norm: the norm before the mixer.
        mixer: the token mixer, a module on tokens, H and W.
        drop_path: probability that the mixer is left out for a sample.
    """

    def __init__(self, norm: nn.Module, mixer: nn.Module, drop_path: float = 0.0):
        super().__init__()
        self.norm = norm
        self.mixer = mixer
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(
        self, x: Tensor, H: int, W: int, rope: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mix tokens x (B, L, C); rope is a table (1, L, 2·C) as `rotary_table` gives."""
        if rope is not None:
            x = apply_rot_embed_cat(x, rope)
        mixed = self.mixer(self.norm(x), H, W)
        return x + self.drop_path(mixed), mixed


class VisionMamba(Isotropic):
    """Patches, blocks of norm and token mixer, and a head on the class token or the mean.

    Args:
        make_mixer: gives the token mixer of a block by its number.
        img_size: side or sides of the images that position embeddings are made for.
        patch_size: side of a patch.
        stride: pixels from one patch to the next; None for no overlap.
        in_chans: channels of the image.
        depth: blocks.
        dim: channels.
        class_token: whether there is a class token, visited in the middle of the routes.
        rope: side of the grid that rotary embeddings were made for; 0 for none.
        features: what `forward_intermediates` hands out: "stream", tokens after a block as in ViT,
            "input", the same with the next block's rotary embedding, or "mixer", what the block
            added to them.
        norm_layer: makes the norms from the channels.
        global_pool: pooling of the head; None for the class token, or the mean where there is none.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        device: where the parameters are made.
        dtype: type of the parameters.
        **head: arguments of `Isotropic`.
    """

    def __init__(
        self,
        make_mixer: Callable[[int], nn.Module],
        *,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        stride: int | None = None,
        in_chans: int = 3,
        depth: int,
        dim: int,
        class_token: bool = False,
        rope: int = 0,
        features: str = "stream",
        norm_layer: Callable[[int], nn.Module] = RMS_NORM,
        global_pool: str | None = None,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **head,
    ):
        if features not in FEATURES:
            raise ValueError(f"features is {features!r}, expected one of {FEATURES}")
        if rope and class_token:
            raise ValueError(f"rope is {rope}, but a class token has no place in the grid")
        stride = stride or patch_size
        grid_size = patch_grid(to_2tuple(img_size), patch_size, stride)
        rates = calculate_drop_path_rates(drop_path_rate, depth)
        with torch.device(device or torch.get_default_device()):
            super().__init__(
                PatchEmbed(in_chans, dim, patch_size, stride),
                [
                    VisionMambaBlock(norm_layer(dim), make_mixer(i), rate)
                    for i, rate in enumerate(rates)
                ],
                norm_layer(dim),
                dim,
                reduction=stride,
                grid_size=grid_size,
                class_token=class_token,
                in_chans=in_chans,
                global_pool=global_pool or ("token" if class_token else "avg"),
                **head,
            )
            self.features = features
            table = rotary_table(dim, *grid_size, rope) if rope else None
            self.register_buffer("rope", table, persistent=False)
            self.init_weights()
        self.to(dtype=dtype)

    def block_arguments(self, H: int, W: int) -> tuple:
        """The grid's size, and its rotary table where there is one."""
        if self.rope is None:
            return H, W
        return H, W, resample_positions(self.rope, self.grid_size, (H, W))

    def run_block(self, level: int, x: Tensor, arguments: tuple) -> tuple[Tensor, Tensor]:
        """Tokens after a block, and the tokens that make its feature map."""
        x, mixed = self.call_block(self.blocks[level], x, arguments)
        if self.features == "mixer":
            return x, mixed
        if self.features == "input" and level < len(self.feature_info) - 1 and arguments[2:]:
            return x, apply_rot_embed_cat(x, *arguments[2:])
        return x, x

    def takes_norm(self, level: int) -> bool:
        """The last norm is made for the stream."""
        return self.features != "mixer"


def from_official_names(
    state_dict: Mapping[str, Tensor],
    model: VisionMamba,
    mixer_names: Sequence[tuple[str, str]],
) -> dict[str, Tensor]:
    """The authors' state_dict under our names and shapes; ours is returned unchanged.

    Dropped are `rope.freqs_cos` and `rope.freqs_sin`, which are computed, and where the model has
    no class token `cls_token` and its position.
    """
    if not any(key.startswith(("patch_embed.", "layers.")) for key in state_dict):
        return dict(state_dict)
    dropped = ("rope.freqs_cos", "rope.freqs_sin")
    weights = {k: v for k, v in state_dict.items() if k not in dropped}
    if "pos_embed" in weights:
        weights["pos_embed"] = _match_positions(weights, model)
    if not model.num_prefix_tokens:
        weights.pop("cls_token", None)
    weights = stack_numbered(rename(weights, (*mixer_names, *OFFICIAL_NAMES)))
    return {k: v.squeeze(2) if k.endswith(".conv_weight") else v for k, v in weights.items()}


OFFICIAL_NAMES = (
    (r"^patch_embed\.", "stem."),
    (r"^layers\.", "blocks."),
    (r"^norm_f\.", "norm."),
    (r"^head\.", "head.fc."),
)


def _match_positions(state_dict: Mapping[str, Tensor], model: VisionMamba) -> Tensor:
    """Positions with the class token's first, instead of in the middle, for the model's grid."""
    positions = state_dict["pos_embed"]
    prefix = positions[:, :0]
    if "cls_token" in state_dict:
        middle = (positions.shape[1] - 1) // 2
        before, own, after = positions.tensor_split([middle, middle + 1], dim=1)
        positions = torch.cat([before, after], dim=1)
        prefix = own if model.num_prefix_tokens else prefix
    side = math.isqrt(positions.shape[1])
    if positions.shape[1] != math.prod(model.grid_size) and side**2 == positions.shape[1]:
        positions = resample_positions(positions, (side, side), model.grid_size)
    return torch.cat([prefix, positions], dim=1)
