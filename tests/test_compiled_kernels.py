"""Triton's kernels compile for GPUs that are not here, within their limits and as recorded."""

import kernel_limits as limits
import kernel_traffic
import pytest
import torch


def test_kernels_compile_as_recorded(compile_check):
    compile_check("compiled_kernels.py")


def test_every_kernel_is_recorded_for_every_capability():
    known = limits.read()
    kernels = [row for call in known["calls"].values() for row in call.values()]
    assert kernels
    assert all(set(row) == {"sm_80", "sm_90"} for row in kernels)


def test_the_document_holds_the_record():
    shown = limits.DOCUMENT.read_text().split(limits.START)[1].split(limits.END)[0]
    assert shown == limits.document(limits.read())


def figures(**changed):
    names = ("registers", "spilled", "shuffles", "barriers", "shared")
    return dict.fromkeys(names, 0) | {"registers": 100} | changed


def table(kernel, **changed):
    return {"call": {kernel: {"sm_90": figures(**changed)}}}


@pytest.mark.parametrize(
    ("kernel", "changed", "allowed"),
    [
        ("forward", {}, True),
        ("forward", {"spilled": 4}, False),
        ("forward", {"shuffles": 1}, False),
        ("forward", {"registers": 256}, False),
        ("forward", {"barriers": 1}, False),
        ("backward", {"spilled": 64}, True),
        ("backward", {"spilled": 68}, False),
        ("backward", {"shuffles": 5}, True),
        ("backward", {"shuffles": 6}, False),
        ("backward", {"shared": 1}, False),
    ],
    ids=str,
)
def test_limits(kernel, changed, allowed):
    known = {"calls": table("backward", shuffles=5)}
    wrong = limits.outside(table(kernel, **changed), known, {})
    assert wrong == [] if allowed else wrong[0].startswith(f"call, {kernel}, sm_90: ")


def test_a_call_may_have_limits_of_its_own():
    own = {"call": {"forward": {"shuffles": 5}}}
    assert limits.outside(table("forward", shuffles=5), {"calls": {}}, own) == []
    assert limits.outside(table("forward", shuffles=6), {"calls": {}}, own)


def test_a_changed_figure_says_what_to_do(capsys):
    known = {"triton": "3.6.0", "calls": table("forward", registers=90)}
    (sentence,) = limits.changed(table("forward"), known, "3.6.0")
    assert sentence == (
        "call, forward, sm_90: registers 100, recorded 90;"
        " if that is meant, run python benchmarks/compiled_kernels.py --record"
    )
    assert limits.changed(table("forward"), known, "3.7.0") == []
    assert capsys.readouterr().out == (
        "recorded with Triton 3.6.0, this is 3.7.0: limits alone count\n"
    )


def test_recording_keeps_other_calls_of_the_same_triton(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(limits, "DOCUMENT", tmp_path / "page.md")
    limits.DOCUMENT.write_text(f"before\n{limits.START}old\n{limits.END}after\n")
    moved = {"forward": {"kernel": 3.0, "all": 3.0, "floor": 2.0}}
    row = figures(exp2=2, loads=3, stores=1) | {"load bytes": 8, "store bytes": 4}
    new = {"forward": {"sm_80": row, "sm_90": row}}
    limits.record({"b": new}, {"b": moved}, ["a", "b"], "3.6.0")
    limits.record({"a": new}, {}, ["a", "b"], "3.6.0")
    known = limits.read()
    assert list(known["calls"]) == ["a", "b"]
    text = limits.DOCUMENT.read_text()
    assert text == f"before\n{limits.START}{limits.document(known)}{limits.END}after\n"
    assert "| a | forward | 100 | 0 | 0 | 2 | 3 (8) | 1 (4) |" in text
    assert "| b | forward | kernel 3.0 | 3.0 | 2.0 |" in text
    limits.record({"a": new}, {}, ["a", "b"], "3.7.0")
    assert list(limits.read()["calls"]) == ["a"]


def test_traffic_counts_what_is_moved():
    x = torch.empty(4, 8, device="meta")
    phase = kernel_traffic.Phase(lambda: x.unsqueeze(0).sum(0).zero_(), [x, x])
    moved = kernel_traffic.measure(lambda: {"forward": phase})
    assert moved == {"forward": {"sum": 8.0, "zero_": 4.0, "all": 12.0, "floor": 8.0}}
