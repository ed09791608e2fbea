"""The GPU benchmarks on a CPU, tiny: what they check, print and write, and their peers."""

import json
import subprocess
from types import ModuleType

import gpu as program
import gpu_limits
import gpu_models
import gpu_scans
import gpu_tune
import mamba_ssm_peer
import on_gpu
import pytest
import torch
from gpu_scans import Line
from gpu_timing import Clock, Timing, Wrong, poisoned

from statescan.kernels.selective_scan import gpu, op, selective_scan_reference
from statescan.scans import scan2d

LIMITS = {"bytes a second": 3e12, "exponentials a second": 4e12}


@pytest.fixture
def clock():
    return Clock("cpu", seconds=0.001, flush=64)


@pytest.fixture
def mamba_ssm(monkeypatch):
    """mamba-ssm's extension, its interface in plain torch."""

    def fwd(u, dt, A, B, C, D, z, bias, softplus):
        assert z is None
        assert softplus
        K = B.shape[1]
        x, dt = (t.mT.unflatten(-1, (K, -1)) for t in (u, dt))  # (B, L, K, C)
        numbers = (t.permute(0, 3, 1, 2) for t in (B, C))  # (B, L, K, N)
        A, D, bias = (t.unflatten(0, (K, -1)) for t in (A, D, bias))
        steps = torch.arange(u.shape[-1]).expand(K, -1)
        y = selective_scan_reference(x, dt, A, *numbers, D, dt_bias=bias, routes=steps, merge=False)
        return y.flatten(2).mT, torch.empty(0)

    def bwd(u, dt, A, B, C, D, z, bias, dy, states, out, dz, softplus, recompute):
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in (u, dt, A, B, C, D, bias)]
            y, _ = fwd(*leaves[:6], None, leaves[6], softplus)
        return torch.autograd.grad(y, leaves, dy)

    module = ModuleType("selective_scan_cuda")
    module.fwd, module.bwd = fwd, bwd
    monkeypatch.setattr(mamba_ssm_peer, "kernel", lambda: module)
    return mamba_ssm_peer


def lines():
    return {
        "low rank": Line(2, 3, 4, 6, "cross", 2, 2),
        "full dt": Line(1, 2, 3, 70, "bidirectional", 1, None, torch.float32),
    }


@pytest.mark.parametrize("name", ["low rank", "full dt"])
def test_scans_agree_with_float64_and_have_figures(name, clock, mamba_ssm, capsys):
    row = gpu_scans.measure(lines()[name], clock, LIMITS)
    assert set(row["scans"]) == set(row["error"]) == {"ours", "mamba-ssm", "attention"}
    assert all(measured["calls"]["both"].median > 0 for measured in row["scans"].values())
    gpu_scans.print_row(name, row)
    printed = capsys.readouterr().out.splitlines()
    assert [line[45:55].strip() for line in printed] == ["ours", "mamba-ssm", "attention"]
    assert "x bytes" in printed[0]
    assert "x forward" in printed[1]


def test_without_mamba_ssm_there_is_no_peer_of_that_name(clock, monkeypatch):
    monkeypatch.setattr(mamba_ssm_peer, "kernel", lambda: None)
    assert set(gpu_scans.measure(lines()["low rank"], clock, LIMITS)["scans"]) == {
        "ours",
        "attention",
    }
    assert gpu_models.ON_MAMBA_SSM not in gpu_models.variants(gpu_models.Setting())


def test_floors_are_bytes_and_exponentials_over_their_rates(clock):
    line = gpu_scans.Line(2, 3, 4, 8, "cross", 1, None)
    inputs, table = gpu_scans.make_inputs(line, clock.device)
    floors = gpu_scans.floors(line, inputs, table, LIMITS)
    x, number, parameter = 2 * 24 * 8, 2 * 24 * 4, 4 * 4 * 8  # bytes
    given = x * 5 + number * 2 + parameter * 3  # x and dt, B and C, A and D and the bias
    assert floors["forward bytes"] == pytest.approx((given + x) / 3e12 * 1e3)
    assert floors["backward bytes"] == pytest.approx((2 * given + x) / 3e12 * 1e3)
    assert floors["forward exponentials"] == pytest.approx(24 * 4 * 8 * 3 / 4e12 * 1e3)


def test_a_wrong_scan_gets_no_time(clock, monkeypatch):
    right = gpu_scans.selective_scan

    def wrong(**given):
        return right(**given) * (1 if given["x"].dtype == torch.float64 else 1.05)

    monkeypatch.setattr(gpu_scans, "selective_scan", wrong)
    with pytest.raises(Wrong, match="ours is off by"):
        gpu_scans.measure(lines()["full dt"], clock, LIMITS)


def test_what_is_not_written_shows():
    with poisoned():
        assert torch.empty(3).isnan().all()
        assert torch.zeros(2).new_empty(3, dtype=torch.bfloat16).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_limits_are_measured(clock):
    assert gpu_limits.bytes_a_second(clock, 2**12) > 0
    if clock.device.type == "cpu" and not torch.cuda.is_available():  # Triton is in its interpreter
        assert gpu_limits.exponentials_a_second(clock, programs=1, rounds=64) > 0


def test_a_model_runs_on_mamba_ssms_kernel(clock, mamba_ssm):
    setting = gpu_models.Setting(2, 32, ("test_vmamba",))
    assert list(gpu_models.variants(setting)) == ["test_vmamba", gpu_models.ON_MAMBA_SSM]
    ours = gpu_models.build("test_vmamba", clock.device)
    x = gpu_models.images(2, 32, clock.device)
    grads = []
    for name in gpu_models.variants(setting):
        with gpu_models.variant(name):
            error, _ = gpu_models.check(name, ours, x)
            gpu_models.train(ours, x)
        assert error < 1e-4
        grads.append(gpu_models.gradients(ours))
    assert 0 < gpu_models.worst(*grads) < 0.05  # another path, the same gradients


def test_mamba_ssms_kernel_leaves_nothing_apart_for_the_merged_norm(clock, mamba_ssm, monkeypatch):
    """On a GPU, where a kernel adds the routes up, the block asks for them apart."""
    model = gpu_models.build("test_vmamba", clock.device)
    x = gpu_models.images(2, 32, clock.device)
    with torch.no_grad(), gpu_models.variant(gpu_models.ON_MAMBA_SSM):
        want = model(x)
        monkeypatch.setattr(scan2d, "norm_is_fused", lambda *tensors: True)
        torch.testing.assert_close(model(x), want)


def test_models_are_compared_before_they_are_timed(clock, capsys):
    setting = gpu_models.Setting(2, 32, ("test_vmamba",))
    row = gpu_models.measure("test_vmamba", setting, clock, compiled=False)
    assert row["modes"]["eager"]["training"]["images a second"] > 0
    gpu_models.print_row("test_vmamba", row)
    assert "images/s" in capsys.readouterr().out


def not_captured(*args):
    raise RuntimeError("operation not permitted when stream is capturing")


def test_a_scan_whose_graph_fails_has_the_times_of_its_calls(clock, monkeypatch):
    monkeypatch.setattr(gpu_scans, "captured", not_captured)
    monkeypatch.setattr(gpu_scans, "kept_bytes", lambda call, device: 0)
    on_a_gpu = Clock("cpu", seconds=0.001, flush=64)
    on_a_gpu.device = torch.device("cuda")
    monkeypatch.setattr(on_a_gpu, "time", clock.time)
    scan, missing = gpu_scans.ours(*gpu_scans.make_inputs(lines()["low rank"], clock.device)), {}
    row = gpu_scans.times("ours", scan, on_a_gpu, missing)
    assert row["calls"]["both"].median > 0
    assert list(missing) == ["graph of ours"]


def test_a_model_whose_graph_fails_has_its_other_figures(clock, monkeypatch):
    modes = gpu_models.modes
    monkeypatch.setattr(gpu_models, "modes", lambda *args: modes(*args) | {"graph": not_captured})
    setting = gpu_models.Setting(2, 32, ("test_vmamba",))
    row = gpu_models.measure("test_vmamba", setting, clock, compiled=False)
    assert list(row["modes"]) == ["eager"]
    assert list(row["missing parts"]) == ["graph"]


def test_a_wrong_model_gets_no_time(clock, monkeypatch):
    monkeypatch.setattr(gpu_models, "FORWARD", lambda self, x: torch.zeros_like(x))
    setting = gpu_models.Setting(2, 32, ("test_vmamba",))
    with pytest.raises(Wrong, match="test_vmamba is off by"):
        gpu_models.measure("test_vmamba", setting, clock, compiled=False)


def test_tiles_are_tried_on_the_kernels(clock, monkeypatch, capsys):

    seen = []

    def backend(*inputs, N=1):
        seen.append(gpu.tile(N, True, False))
        return op.streaming if inputs[0].dtype == torch.float64 else gpu

    monkeypatch.setattr(op, "backend", backend)
    monkeypatch.setattr(gpu_tune, "tiles", lambda N: [gpu.Tile(32, 2), gpu.Tile(64, 4)])
    monkeypatch.setattr(clock, "time", lambda call: clock_once(call))
    row = gpu_tune.measure(gpu_tune.Line(1, 1, 2, 3, "bidirectional", 1, 2), clock)
    gpu_tune.print_row("tiny", row)
    assert {gpu.Tile(32, 2), gpu.Tile(64, 4)} <= set(seen)
    assert set(row["ms"]) == {"BLOCK=32 STEPS=2 WARPS=1", "BLOCK=64 STEPS=4 WARPS=1"}
    assert "tiny             forward   BLOCK=" in capsys.readouterr().out


def clock_once(call):
    call()
    return Timing(1.0, 1.0, 1.0)


@pytest.mark.parametrize("N", [1, 16])
def test_tiles_to_try_hold_what_is_used_now(N):

    used = {gpu.tile(N, True, backward) for backward in (False, True)}
    assert used <= set(gpu_tune.tiles(N))
    assert len(gpu_tune.tiles(N)) <= 16


@pytest.fixture
def tiny(monkeypatch):
    """The program with problems that a CPU runs at once."""

    monkeypatch.setattr(gpu_scans, "LINES", lines())
    monkeypatch.setattr(program, "measured_limits", lambda clock: LIMITS)
    setting = gpu_models.Setting(2, 32, ("test_vmamba",))
    monkeypatch.setattr(gpu_models, "Setting", lambda: setting)
    return program


def test_the_program_writes_sections_over_those_of_the_same_name(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps({"tune": {"rows": {}}, "scans": {"rows": {"old": {}}}}))
    common = ["--device", "cpu", "--seconds", "0.001", "--json", str(path)]
    assert tiny.main(["scans", "profile", "--only", "", *common]) == 0
    results = json.loads(path.read_text())
    assert list(results["scans"]["rows"]) == ["low rank", "full dt"]
    assert set(results) == {"tune", "scans", "profile"}
    assert results["scans"]["command"].startswith("python benchmarks/gpu.py scans profile")
    assert results["scans"]["gpu"] == "cpu"
    assert json.loads((tmp_path / "out/cpu.json").read_text()) == results


def test_what_fails_or_finds_no_time_is_written_down(tiny, tmp_path, capsys, monkeypatch):
    path = tmp_path / "cpu.json"
    common = ["--device", "cpu", "--seconds", "0.001", "--json", str(path)]
    assert tiny.main(["scans", "--minutes", "0", *common]) == 1
    assert "NOT MEASURED low rank: TimeoutError: no time left" in capsys.readouterr().out

    def fails(*args, **kwargs):
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(gpu_scans, "check", fails)
    assert tiny.main(["scans", *common]) == 1
    rows = json.loads(path.read_text())["scans"]["rows"]
    assert rows["full dt"] == {"missing": "RuntimeError: out of memory"}


def test_a_peer_that_fails_costs_no_figures_of_ours(tiny, tmp_path, capsys, monkeypatch):
    def fails(scan):
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(gpu_scans, "check_attention", fails)
    path = tmp_path / "cpu.json"
    common = ["--device", "cpu", "--seconds", "0.001", "--json", str(path)]
    assert tiny.main(["scans", "--only", "low rank", *common]) == 1
    assert "NOT MEASURED low rank, attention: RuntimeError: no kernel" in capsys.readouterr().out
    row = json.loads(path.read_text())["scans"]["rows"]["low rank"]
    assert row["scans"]["ours"]["calls"]["both"][0] > 0
    assert "attention" not in row["scans"]


def test_a_kernel_of_mamba_ssms_that_does_not_load_is_no_peer(monkeypatch, tmp_path, capsys):
    """One built for another Python, say."""
    (tmp_path / f"{mamba_ssm_peer.NAME}.so").write_bytes(b"")
    monkeypatch.setattr(mamba_ssm_peer, "PEERS", tmp_path)
    assert mamba_ssm_peer.kernel.__wrapped__() is None
    assert "mamba-ssm's kernel does not load: " in capsys.readouterr().out


def test_without_a_gpu_the_programs_say_so(tiny, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tiny.main([]) == 2
    assert on_gpu.main([]) == 2
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "There is no GPU here that torch can use: nothing was measured.",
        "There is no GPU here that torch can use: nothing was run.",
    ]


def test_steps_go_on_after_one_that_fails_or_takes_too_long(monkeypatch, tmp_path, capsys):
    def step(name, code, seconds=60):
        return on_gpu.Step(name, ["-c", code], seconds)

    every = {
        "first": [step("a", "print('A')"), step("b", "import time; time.sleep(60)", 1)],
        "second": [step("c", "raise SystemExit(3)")],
    }
    monkeypatch.setattr(on_gpu, "steps", lambda: every)
    monkeypatch.setattr(on_gpu, "LAST_WORDS", 0)
    monkeypatch.setattr(on_gpu, "build", lambda: "built")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("OUT", str(tmp_path))
    assert on_gpu.main([]) == 1
    printed = capsys.readouterr().out
    assert printed.endswith("\na: passed\nb: cut off after 1 s\nc: failed (3)\n")
    assert "a: passed\nA\n" in printed
    assert (tmp_path / "gpu.log").read_text() == printed
    assert on_gpu.main(["third"]) == 2


def test_a_step_that_is_cut_off_says_what_it_has_found(monkeypatch):
    """As pytest does, whose failures would be lost otherwise."""
    code = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have switched off
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("found")
"""
    monkeypatch.setattr(on_gpu, "LAST_WORDS", 20)
    [(_, became, printed)] = on_gpu.run([on_gpu.Step("slow", ["-c", code], 23)])
    assert (became, printed) == ("cut off after 23 s", "found\n")


def test_steps_share_out_the_processors(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    code = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['OMP_WAIT_POLICY'])"
    done = on_gpu.run([on_gpu.Step(n, ["-c", code], 60) for n in "abc"])
    assert [printed for *_, printed in done] == ["6 passive\n"] * 3


def test_a_library_that_takes_too_long_to_build_stops_nothing(monkeypatch):
    def run(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)
    assert on_gpu.build().startswith("C library not built in a minute")


def test_all_steps_fit_nine_minutes_and_name_files_that_exist():
    every = on_gpu.steps()
    assert 20 + sum(max(step.seconds for step in steps) for steps in every.values()) <= 540
    files = [a for steps in every.values() for s in steps for a in s.arguments if ".py" in a]
    assert files
    assert all(on_gpu.Path(name).exists() for name in files)
    for name in ("test_selective_scan_gpu.py", "test_scan2d_kernels.py"):
        assert any(file.endswith(name) for file in files)


def test_peers_need_one_source_package(monkeypatch, tmp_path):
    monkeypatch.setattr(mamba_ssm_peer, "PEERS", tmp_path)
    with pytest.raises(SystemExit, match=r"peers/ holds 0 files mamba_ssm-\*.tar.gz, expected one"):
        mamba_ssm_peer.build()
