"""Models on a GPU against the CPU: two of VMamba's, and the smallest of every family."""

import gpu_cases
import pytest
import torch

NAMES = ["vmamba_tiny_s1l8", "vmamba_v0_tiny", *gpu_cases.smallest_models()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_cpu(name, dtype):
    gpu_cases.compare_model(name, dtype, "cuda", size=64)
