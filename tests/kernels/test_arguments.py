"""What every operator refuses."""

import pytest
import torch
from gpu_cases import cases, make_inputs
from torch.autograd import forward_ad

CASES = cases(tiny=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch.func's
@pytest.mark.parametrize("name", CASES)
def test_tangents_are_refused(name):
    """torch would go on with tangents of zero."""
    case = CASES[name]
    inputs = make_inputs(case, torch.float32)
    for changed in inputs:

        def run(value, changed=changed):
            return case.run(**inputs | {changed: value})

        value = inputs[changed]
        with pytest.raises(NotImplementedError, match="has a tangent, and the operator no forward"):
            torch.func.jvp(run, (value,), (torch.ones_like(value),))
        with (
            forward_ad.dual_level(),
            pytest.raises(NotImplementedError, match="has a tangent, and the operator no forward"),
        ):
            run(forward_ad.make_dual(value, torch.ones_like(value)))
