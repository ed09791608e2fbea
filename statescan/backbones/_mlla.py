"""What Spatial-Mamba and VSSD have in common: MLLA's pyramid around a token mixer of their own."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..layers import InvertedDownsample, MllaBlock, ResidualStem
from ._checkpoint import STAGE_NAMES, match_one_route, rename
from ._pyramid import Pyramid, block_stages


class MllaPyramid(Pyramid):
    """MLLA's stem, downsampling and blocks around a token mixer, any image size.

    `OFFICIAL_BLOCK_NAMES` of a family rewrites the authors' names inside blocks to ours.

    Args:
        mixer: makes the token mixer of a block from its stage's number and channels.
        depths: blocks a stage.
        dims: channels a stage.
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling of the head.
        mlp_ratio: hidden width of the MLP as a multiple of the channels.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        out_norms: stages whose feature map gets a LayerNorm of its own; True for all.
        device: where the parameters are made.
        dtype: type of the parameters.
    """

    OFFICIAL_BLOCK_NAMES: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        mixer: Callable[[int, int], nn.Module],
        depths: Sequence[int],
        dims: Sequence[int],
        *,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_norms: bool | Sequence[int] = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        def block(stage: int, dim: int, rate: float) -> MllaBlock:
            return MllaBlock(dim, mixer(stage, dim), mlp_ratio=mlp_ratio, drop_path=rate)

        with torch.device(device or torch.get_default_device()):
            super().__init__(
                ResidualStem(in_chans, dims[0]),
                block_stages(block, InvertedDownsample, depths, dims, drop_path_rate),
                dims,
                in_chans=in_chans,
                num_classes=num_classes,
                global_pool=global_pool,
                drop_rate=drop_rate,
                out_norms=out_norms,
            )
            self.init_weights()
        self.to(dtype=dtype)

    @staticmethod
    def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict:
        """The authors' state_dict under our names and shapes; ours is returned unchanged.

        Takes the out-norms of detection backbones too. Nothing is dropped.
        """
        if not any(key.startswith(("patch_embed.", "layers.")) for key in state_dict):
            return dict(state_dict)
        renamed = rename(state_dict, (*model.OFFICIAL_BLOCK_NAMES, *OFFICIAL_NAMES))
        return match_one_route(renamed, model)


OFFICIAL_NAMES = (
    (r"^patch_embed\.(.+)\.norm\.", r"patch_embed.\1.bn."),
    (r"^patch_embed\.", "stem."),
    (r"^head\.", "head.fc."),
    *STAGE_NAMES,
    (r"\.downsample\.conv\.0\.conv\.", ".downsample.expand."),
    (r"\.downsample\.conv\.1\.conv\.", ".downsample.conv."),
    (r"\.downsample\.conv\.2\.conv\.", ".downsample.reduce.conv."),
    (r"\.downsample\.conv\.2\.norm\.", ".downsample.reduce.bn."),
)
