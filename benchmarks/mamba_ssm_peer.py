"""mamba-ssm's CUDA selective scan as a peer: built from its sources, with cross-scan and merge.

    python benchmarks/mamba_ssm_peer.py     # builds what lies in peers/, see benchmarks/GPU.md

Its setup builds for nine kinds of GPU and needs packages that the kernel does not; here the
extension alone is built, with the options of its setup, for the GPU at hand.
"""

import importlib
import sys
import tarfile
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

PEERS = Path(__file__).parents[1] / "peers"
NAME = "selective_scan_cuda"
NVCC = [
    "-O3",
    "-std=c++17",
    "--expt-relaxed-constexpr",
    "--expt-extended-lambda",
    "--use_fast_math",
]
NVCC += [
    f"-U__CUDA_NO_{kind}_{what}__"
    for kind in ("HALF", "BFLOAT16", "BFLOAT162")
    for what in ("OPERATORS", "CONVERSIONS")
]


def build() -> Path:
    """Compile the extension of the source package in peers/; the file to import."""
    from torch.utils import cpp_extension

    packages = sorted(PEERS.glob("mamba_ssm-*.tar.gz"))
    if len(packages) != 1:
        raise SystemExit(f"peers/ holds {len(packages)} files mamba_ssm-*.tar.gz, expected one")
    with tarfile.open(packages[0]) as archive:
        archive.extractall(PEERS, filter="data")
    folder = PEERS / packages[0].name.removesuffix(".tar.gz") / "csrc/selective_scan"
    cpp_extension.load(
        NAME,
        [str(path) for path in sorted(folder.glob("*.c*")) if path.suffix in (".cpp", ".cu")],
        extra_include_paths=[str(folder)],
        extra_cflags=["-O3", "-std=c++17"],
        extra_cuda_cflags=NVCC,
        build_directory=str(PEERS),
        verbose=True,
    )
    return PEERS / f"{NAME}.so"


@cache
def kernel() -> ModuleType | None:
    """The extension, from peers/ or from an installed mamba-ssm; None where it does not load."""
    sys.path.insert(0, str(PEERS))
    try:
        return importlib.import_module(NAME)
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError):  # another Python's, or another torch's
            print(f"mamba-ssm's kernel does not load: {error}")
        return None
    finally:
        sys.path.remove(str(PEERS))


class MambaScan(torch.autograd.Function):
    """The kernel with its backward pass: y (B, K·C, L) of u and dt (B, K·C, L), B, C (B, K, N, L).

    A (K·C, N), D and bias (K·C) are float32.
    """

    @staticmethod
    def forward(ctx, u, dt, A, B, C, D, bias):
        """Scan u, and keep what the backward pass reads."""
        y, states, *_ = kernel().fwd(u, dt, A, B, C, D, None, bias, True)
        ctx.save_for_backward(u, dt, A, B, C, D, bias, states)
        return y

    @staticmethod
    def backward(ctx, dy):
        """Gradients of all inputs."""
        u, dt, A, B, C, D, bias, states = ctx.saved_tensors
        given = (u, dt, A, B, C, D, None, bias, dy.contiguous(), states, None, None, True, False)
        return tuple(kernel().bwd(*given)[:7])


def both_ways(t: Tensor) -> Tensor:
    """Orders of a map (B, K, C, L), then each reversed: (B, 2K, C, L)."""
    return torch.cat([t, t.flip(-1)], dim=1)


def spread(x: Tensor, routes: str, H: int, W: int) -> Tensor:
    """Copies of x (B, C, L) in each route's order, (B, K, C, L): a cross-scan."""
    if routes == "bidirectional":
        return both_ways(x.unsqueeze(1))
    columns = x.unflatten(-1, (H, W)).mT.flatten(2)
    return both_ways(torch.stack([x, columns], dim=1))


def gather(y: Tensor, routes: str, H: int, W: int) -> Tensor:
    """The sum of y (B, K, C, L) over the routes, back in image order, (B, C, L): a cross-merge."""
    half = y.shape[1] // 2
    y = y[:, :half] + y[:, half:].flip(-1)
    if routes == "bidirectional":
        return y[:, 0]
    return y[:, 0] + y[:, 1].unflatten(-1, (W, H)).mT.flatten(2)


def scan(x, dt, A, B, C, D, dt_weight, dt_bias, routes: str, H: int, W: int) -> Tensor:
    """Cross-scan, kernel and cross-merge of x (B, C, L), as VMamba puts them together.

    dt (B, K, C, L), or (B, K, R, L) with dt_weight (K, C, R), and B, C (B, K, N, L) are in each
    route's order already, where a projection of the copies leaves them. A, D and dt_bias are as in
    `statescan.selective_scan`.
    """
    if dt_weight is not None:
        dt = torch.einsum("bkrl,kcr->bkcl", dt, dt_weight.to(dt.dtype))
    u = spread(x, routes, H, W)
    rows = (t.flatten(1, 2).contiguous() for t in (u, dt))
    numbers = (t.contiguous() for t in (B, C))
    y = MambaScan.apply(*rows, A.flatten(0, 1), *numbers, D.flatten(), dt_bias.flatten())
    return gather(y.unflatten(1, A.shape[:2]), routes, H, W)


def s6_forward(self, x: Tensor, *, apart: bool = False) -> Tensor:
    """`scans.S6.forward` of cross routes on this kernel: x (B, H, W, C), merged in any case."""
    H, W = x.shape[1:3]
    tokens = x.permute(0, 3, 1, 2).flatten(2)
    projected = torch.einsum("bkcl,kwc->bkwl", spread(tokens, "cross", H, W), self.x_proj_weight)
    dt, B, C = projected.split((self.dt_rank, self.d_state, self.d_state), dim=2)
    parameters = (self.D.float(), self.dt_proj_weight, self.dt_proj_bias.float())
    inputs = (tokens.to(dt.dtype), dt, self.decay_rates(), B, C, *parameters)
    return scan(*inputs, "cross", H, W).mT.unflatten(1, (H, W))


if __name__ == "__main__":
    print(build())
