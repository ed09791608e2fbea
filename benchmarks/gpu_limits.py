"""What a GPU can do at most, measured: bytes a second in a copy, exponentials a second."""

import torch
import triton
import triton.language as tl
from gpu_timing import Clock, Wrong, refuse

from statescan.kernels import _triton

FIXED_POINT = 0.6411857  # of 2^-x


@triton.jit
def exponentials(out, rounds, BLOCK: tl.constexpr):
    """Take 2^-x of x, `rounds` times for each lane of a block, in independent chains."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = (lane % 7).to(tl.float32) / 7
    for _ in range(rounds):
        x = tl.exp2(-x)
    tl.store(out + lane, x)


def exponentials_a_second(clock: Clock, programs: int = 132 * 64, rounds: int = 4096) -> float:
    """Exponentials a second, from a kernel that does nothing else."""
    block = 1024
    out = torch.full((programs * block,), torch.nan, device=clock.device)

    def run() -> None:
        _triton.launch(exponentials, (programs,), out, rounds, BLOCK=block)

    run()
    refuse("an exponential", float((out - FIXED_POINT).abs().max()), 1e-5)
    return programs * block * rounds / clock.time(run).median * 1e3


def bytes_a_second(clock: Clock, size: int = 2**30) -> float:
    """Bytes read and written a second by a copy of random numbers."""
    given = torch.randn(size // 4, device=clock.device)
    taken = torch.full_like(given, torch.nan)

    def run() -> None:
        taken.copy_(given)

    milliseconds = clock.time(run).median
    if not torch.equal(taken, given):
        raise Wrong("a copy differs from what was copied")
    return 2 * given.nbytes / milliseconds * 1e3
