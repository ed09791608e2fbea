"""MTP, the motion predictor of MambaTrack (arXiv 2408.09178): past box changes → the next one.

The authors published no code. From the paper: the input, the width, the blocks, the head and the
loss. Decided here, each an argument: the MLP's width and GELU, Mamba's usual sizes (16 states, a
convolution over 4 steps, twice the width inside), and what a change is measured in (`ChangeUnit`).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..scans import TokenScan
from ..scans.routes import Reverse, raster
from .motion import Motion, State

REFERENCES = ("box", "image")


@dataclass(frozen=True)
class ChangeUnit:
    """What a change of 1 is: a part of the width or height of the box before, or of the image.

    Relative to its box a target moves alike near and far.

    Args:
        relative_to: "box" or "image".
        part: the part; a target's usual change in a frame keeps numbers of the order of 1.
        image_size: (height, width) in pixels, for "image".
    """

    relative_to: str = "box"
    part: float = 0.05
    image_size: tuple[int, int] | None = None

    def __post_init__(self):
        if self.relative_to not in REFERENCES:
            raise ValueError(f"relative_to is {self.relative_to!r}, expected one of {REFERENCES}")
        if (self.relative_to == "image") != (self.image_size is not None):
            raise ValueError(
                f"image_size is {self.image_size} and relative_to {self.relative_to!r}: "
                "a size belongs to 'image' and to it alone"
            )

    def __call__(self, boxes: np.ndarray) -> np.ndarray:
        """(n, 4) pixels that a change of 1 is for boxes (n, 4), centres and sizes."""
        if self.relative_to == "box":
            return self.part * np.tile(np.clip(boxes[:, 2:], 1, None), 2)
        height, width = self.image_size
        return self.part * np.broadcast_to(np.array([width, height] * 2, float), boxes.shape)


class BiMambaBlock(nn.Module):
    """Two Mambas, one from each end, then an MLP: y = f(x) + b(x), out = y + LN(MLP(y)).

    Steps (B, T, C) → (B, T, C).

    Source: MambaTrack, arXiv 2408.09178, section 3.2.
    """

    def __init__(self, dim: int, *, mlp_ratio: float = 4.0, **scan):
        super().__init__()
        self.forwards = TokenScan(dim, routes=(raster,), **scan)
        self.backwards = TokenScan(dim, routes=(Reverse(raster),), **scan)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mix steps x (B, T, C); mask (B, T, 1) is 0 where a tracklet has no step yet."""
        T = x.shape[1]
        y = self.forwards(x, 1, T, mask=mask) + self.backwards(x, 1, T, mask=mask)
        return (y + self.norm(self.mlp(y))) * mask


class MotionPredictor(nn.Module):
    """The next change of boxes from their last ones, for tracklets of unequal length.

    Args:
        dim: channels.
        depth: blocks.
        steps: changes that are looked at, q.
        mlp_ratio: hidden width of the MLPs as a multiple of dim.
        d_state: states a channel of the scans.
        expand: inner width of the scans as a multiple of dim.
        conv_size: steps that the scans' convolution sees.

    Source: MambaTrack, arXiv 2408.09178, section 3.2.
    """

    def __init__(
        self,
        *,
        dim: int = 512,
        depth: int = 3,
        steps: int = 10,
        mlp_ratio: float = 4.0,
        d_state: int = 16,
        expand: float = 2.0,
        conv_size: int = 4,
    ):
        super().__init__()
        self.steps = steps
        self.embed = nn.Linear(4, dim)
        sizes = dict(mlp_ratio=mlp_ratio, d_state=d_state, expand=expand, conv_size=conv_size)
        self.blocks = nn.ModuleList(BiMambaBlock(dim, **sizes) for _ in range(depth))
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4))

    def forward(self, changes: Tensor, count: Tensor) -> Tensor:
        """The expected next change (B, 4).

        Args:
            changes: (B, T, 4) past changes of (cx, cy, w, h), the latest last.
            count: (B,) how many of them there are; those before are not read. A tracklet without
                any is expected to stay.
        """
        T = changes.shape[1]
        there = torch.arange(T, device=count.device) >= T - count[:, None]
        mask = there.unsqueeze(-1).to(changes.dtype)
        x = self.embed(torch.where(there.unsqueeze(-1), changes, 0)) * mask
        for block in self.blocks:
            x = block(x, mask)
        mean = x.sum(1) / mask.sum(1).clamp_min(1)
        return self.head(mean) * (count > 0).unsqueeze(-1)


class LearnedMotion(Motion):
    """A `MotionPredictor` as a model of motion, with tracklet patching.

    Args:
        predictor: the network, in evaluation mode.
        patch: while a target is not seen, its expected box is taken for an observation, so that it
            moves on; else it waits where the last sighting puts it.
        unit: what changes are measured in, as in training.

    Source: MambaTrack, arXiv 2408.09178, section 3.3.
    """

    def __init__(
        self,
        predictor: MotionPredictor,
        *,
        patch: bool = True,
        unit: ChangeUnit = ChangeUnit(),
    ):
        self.predictor, self.patch, self.unit = predictor.eval(), patch, unit

    def begin(self, boxes: np.ndarray) -> State:
        """No change yet."""
        n = len(boxes)
        return {
            "box": boxes,
            "changes": np.zeros((n, self.predictor.steps, 4), np.float32),
            "count": np.zeros(n, np.int64),
            "gap": np.zeros(n, np.int64),
        }

    @torch.inference_mode()
    def predict(self, state: State) -> tuple[State, np.ndarray]:
        """Ask the network."""
        device = next(self.predictor.parameters()).device
        inputs = (torch.from_numpy(state[name]).to(device) for name in ("changes", "count"))
        change = self.predictor(*inputs).double().cpu().numpy()
        box = state["box"]
        expected = box + change * self.unit(box)
        expected[:, 2:] = np.clip(expected[:, 2:], 1, None)
        return {**state, "gap": state["gap"] + 1}, expected

    def correct(self, state: State, boxes: np.ndarray, seen: np.ndarray) -> State:
        """Append the change since the last observation, a frame's share of it."""
        observed = seen | self.patch
        change = (boxes - state["box"]) / self.unit(state["box"]) / state["gap"][:, None]
        appended = np.concatenate([state["changes"][:, 1:], change[:, None]], axis=1)
        count = np.minimum(state["count"] + 1, self.predictor.steps)
        return {
            "box": np.where(observed[:, None], boxes, state["box"]),
            "changes": np.where(observed[:, None, None], appended, state["changes"]).astype("f4"),
            "count": np.where(observed, count, state["count"]),
            "gap": np.where(observed, 0, state["gap"]),
        }
