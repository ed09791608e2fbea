"""Triton's kernels compile for GPUs that they were never run on."""

import json

import compiled_elsewhere as elsewhere
import pytest


def test_kernels_compile_for_every_gpu(compile_check):
    compile_check("compiled_elsewhere.py")


def test_the_record_has_every_call_for_every_gpu():
    gpus = json.loads(elsewhere.RECORD.read_text())["gpus"]
    assert list(gpus) == list(elsewhere.GPUS)
    for kernels in gpus.values():
        assert {kernel.rsplit(", ", 1)[0] for kernel in kernels} == set(elsewhere.CALLS)
        assert all(figures["registers"] > 0 for figures in kernels.values())


def test_the_document_holds_the_record():
    page = elsewhere.DOCUMENT.read_text()
    shown = page.split(elsewhere.START)[1].split(elsewhere.END)[0]
    assert shown == elsewhere.document(json.loads(elsewhere.RECORD.read_text()))


@pytest.mark.parametrize(("spilled", "sentences"), [(384, 0), (388, 1)])
def test_a_kernel_that_spills_is_named(spilled, sentences):
    table = {"gfx942": {"N1 bf16, forward": {"registers": 512, "spilled": spilled}}}
    wrong = elsewhere.outside(table)
    assert wrong == ["N1 bf16, forward, gfx942: spilled 388, over 384"][:sentences]
