"""timm's model contract for backbones of one resolution throughout, as ViT."""

from collections.abc import Collection, Sequence

import torch
from timm.layers import ClassifierHead
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from ..layers import resample_positions
from ._contract import Backbone


class TokenHead(ClassifierHead):
    """Classifier on tokens (B, E + H·W, C), the first E of which lie outside the image.

    Args:
        dim: channels C.
        num_classes: classes; 0 for none.
        global_pool: "token" for the first token, else the pooling of those in the image: avg, max,
            avgmax, catavgmax or "" for none.
        num_prefix_tokens: tokens outside the image, E.
        drop_rate: dropout before the classifier.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        global_pool: str,
        num_prefix_tokens: int,
        drop_rate: float = 0.0,
    ):
        self.num_prefix_tokens = num_prefix_tokens
        pool_type = self._choose(global_pool)
        super().__init__(dim, num_classes, pool_type, drop_rate, input_fmt="NHWC")

    def _choose(self, global_pool: str) -> str:
        """Note which tokens are pooled, and return how."""
        self.first = global_pool == "token"
        if self.first and not self.num_prefix_tokens:
            raise ValueError("global_pool is 'token', but this model has no class token")
        return "avg" if self.first else global_pool

    def reset(self, num_classes: int, pool_type: str | None = None, **kwargs) -> None:
        """Replace the classifier, and the pooling if given."""
        chosen = None if pool_type is None else self._choose(pool_type)
        super().reset(num_classes, chosen, **kwargs)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, E + H·W, C) → logits, or pooled features with `pre_logits`."""
        if self.global_pool.pool_type:
            pooled = x[:, :1] if self.first else x[:, self.num_prefix_tokens :]
            x = pooled.unsqueeze(1)
        return super().forward(x, pre_logits)


class Isotropic(Backbone):
    """Patches with position embeddings, blocks, a last norm and a classifier.

    Tokens are (B, E + H·W, C): a class token first where there is one (E = 1), then the grid, row
    by row. A family makes its stem and blocks and hands them over. Images of any size are taken:
    position embeddings are resampled.

    Args:
        stem: (B, in_chans, H, W) → (B, H', W', C).
        blocks: modules on tokens and what `block_arguments` gives, that return tokens.
        norm: the last norm.
        dim: channels C.
        reduction: pixels from one patch to the next.
        grid_size: patches of the image size that position embeddings are made for.
        class_token: whether there is a class token.
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling of the head: token, avg, max, avgmax, catavgmax or "" for none.
        drop_rate: dropout before the classifier.
        out_norms: blocks whose feature map gets a LayerNorm of its own in
            `forward_intermediates` and `features_only`, as detectors and segmenters are trained;
            True for all.
        out_norm_eps: epsilon of those norms.
    """

    levels_name = "blocks"
    output_fmt = "NLC"
    no_decay = (*Backbone.no_decay, "pos_embed", "cls_token")

    def __init__(
        self,
        stem: nn.Module,
        blocks: Sequence[nn.Module],
        norm: nn.Module,
        dim: int,
        *,
        reduction: int,
        grid_size: tuple[int, int],
        class_token: bool = False,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        out_norms: bool | Sequence[int] = False,
        out_norm_eps: float = 1e-5,
    ):
        super().__init__(
            [dim] * len(blocks),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            out_norms=out_norms,
            out_norm_eps=out_norm_eps,
        )
        self.feature_info = [
            {"num_chs": dim, "reduction": reduction, "module": f"blocks.{i}"}
            for i in range(len(blocks))
        ]
        self.grid_size, self.num_prefix_tokens = tuple(grid_size), int(class_token)
        self.grad_checkpointing = False
        self.stem = stem
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if class_token else None
        tokens = self.num_prefix_tokens + grid_size[0] * grid_size[1]
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, dim))
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm
        self.head = TokenHead(
            dim,
            num_classes,
            global_pool=global_pool,
            num_prefix_tokens=self.num_prefix_tokens,
            drop_rate=drop_rate,
        )
        self.head_hidden_size = self.head.num_features

    def init_weights(self, std: float | None = 0.02) -> None:
        """Linear layers and embeddings from a truncated normal."""
        super().init_weights(std)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward_stem(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Check the image and embed it: tokens (B, E + H'·W', C), and (H', W')."""
        self.check_image(x)
        x = self.stem(x)
        grid = x.shape[1:3]
        prefix, positions = self.pos_embed.tensor_split([self.num_prefix_tokens], dim=1)
        x = x.flatten(1, 2) + resample_positions(positions, self.grid_size, grid)
        if self.cls_token is not None:
            x = torch.cat([(self.cls_token + prefix).expand(x.shape[0], -1, -1), x], dim=1)
        return x, grid

    def block_arguments(self, H: int, W: int) -> tuple:
        """What blocks take beside the tokens of an H×W grid."""
        return H, W

    def call_block(self, block: nn.Module, x: Tensor, arguments: tuple):
        """Call a block, so that it is recomputed in the backward pass where that is asked for."""
        recompute = self.grad_checkpointing and self.training and torch.is_grad_enabled()
        return checkpoint(block, x, *arguments) if recompute else block(x, *arguments)

    def run_block(self, level: int, x: Tensor, arguments: tuple) -> tuple[Tensor, Tensor]:
        """Tokens after a block, and the tokens that make its feature map."""
        x = self.call_block(self.blocks[level], x, arguments)
        return x, x

    def forward_levels(
        self, x: Tensor, taken: Collection[int], count: int
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run the first `count` blocks; see `Backbone`."""
        maps = {}
        x, grid = self.forward_stem(x)
        arguments = self.block_arguments(*grid)
        for i in range(count):
            x, feature = self.run_block(i, x, arguments)
            if i in taken:
                maps[i] = feature[:, self.num_prefix_tokens :].unflatten(1, grid)
        return x, maps

    def takes_norm(self, level: int) -> bool:
        """All blocks have the last one's channels."""
        return True

    def forward_features(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) → normalised tokens (B, E + H'·W', C)."""
        return self.norm(self.forward_levels(x, (), len(self.blocks))[0])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, E + H·W, C) → logits, or pooled features with `pre_logits`."""
        return self.head(x, pre_logits=pre_logits)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Parameter groups for layer-wise learning rates; blocks are the coarse groups too."""
        blocks = [(r"^blocks\.(\d+)", None), (r"^(?:norm|out_norms)", (99999,))]
        return {"stem": r"^(?:stem|cls_token|pos_embed)", "blocks": blocks}
