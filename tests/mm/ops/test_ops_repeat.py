"""The cases of `make test-mmcv-ext`, on the stand-in alone: the same bits in every run."""

import mmcv._ext
import pytest
import torch
from compare_ops import CASES, results


@pytest.mark.filterwarnings("ignore:This overload of addmm is deprecated:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_the_same_bits_in_every_run(name):
    first, second = (results(CASES[name], 0, mmcv._ext) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
    assert all(gradient.any() for gradient in first[1])
