"""Products in the type they are asked for."""

import pytest
from gpu_models import without_tf32


@pytest.fixture(autouse=True)
def exact_products():
    with without_tf32():
        yield
