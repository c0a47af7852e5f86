"""flow, flow_update and velocity: the loop they say they are, on every backend.

How long two roundings of one flow stay together depends on the flow: a step stretches a difference
by up to 1 + step_size · |∇²f|, and where particles meet, laplace and energy have no bound on ∇²f.
Backends are held to the accuracy rule over 100 steps of flows whose steps are small against that.
"""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.backends import choice, native_flow
from dmmd_kernels.backends.philox import normals
from dmmd_kernels.ops import flow_run
from tests.cases import DEVICE, KERNELS, assert_within, each_backend, each_kernel, problem

MASK = 0xFFFFFFFF
needs_native = pytest.mark.skipif(
    choice.report(torch.device("cpu"))["native"] is not None,
    reason=f"native: {choice.report(torch.device('cpu'))['native']}",
)


def particles_and_data(n=20, m=25, d=2, dtype=torch.float64):
    x, y, _, _ = problem(n, m, d, dtype=dtype)
    return x + 1.5, y


# -- The loop -------------------------------------------------------------------------------------


def test_is_the_loop_it_says_it_is():
    x, y = particles_and_data()
    k = dk.gaussian(1.0)
    expected = x
    for size in (0.3, 0.2, 0.1):
        expected = expected - size * dk.witness_grad(expected, expected, y, k)
    got = dk.flow(x, y, k, step_size=[0.3, 0.2, 0.1], steps=3)
    torch.testing.assert_close(got.particles, expected)
    assert got.trajectory is None
    assert got.mmd2 is None


@each_backend
def test_noise_moves_where_the_gradient_is_read_and_nothing_else(name):
    x, y = particles_and_data(dtype=torch.float32)
    k = dk.gaussian(1.0)
    xi = normals(x[None], seed=3, step=0)[0]
    expected = x - 0.3 * dk.witness_grad(x + 0.5 * xi, x, y, k)
    got = dk.flow(x, y, k, step_size=0.3, steps=1, noise=0.5, seed=3, backend=name)
    torch.testing.assert_close(got.particles, expected)


def test_momentum_clipping_and_weights_are_what_they_say():
    x, y = particles_and_data()
    k, w = dk.rational_quadratic(0.5), torch.rand(len(y), dtype=y.dtype, device=DEVICE)
    share = torch.cat([x.new_full((len(x),), 1 / len(x)), -w])
    z, v = x, torch.zeros_like(x)
    for _ in range(4):
        g = dk.potential_grad(z, torch.cat([z, y]), share, k)
        assert (g.norm(dim=-1) > 0.1).any()
        v = 0.9 * v + g * (0.1 / g.norm(dim=-1, keepdim=True)).clamp(max=1)
        z = z - 0.5 * v
    how = {"weights": w, "momentum": 0.9, "max_norm": 0.1}
    got = dk.flow(x, y, k, step_size=0.5, steps=4, **how)
    torch.testing.assert_close(got.particles, z)


@needs_native
@each_kernel
@pytest.mark.parametrize("d", [1, 2, 3, 7, 12])
def test_the_extension_obeys_the_accuracy_rule_over_100_steps(kernel, d):
    x, y = particles_and_data(n=13, m=30, d=d, dtype=torch.float32)
    how = {"step_size": 0.3, "steps": 100, "momentum": 0.3, "max_norm": 0.5, "seed": 6}
    how["noise"] = torch.linspace(0.3, 0, 100)
    run = lambda x, y, name: dk.flow(x, y, kernel, backend=name, **how).particles.double()
    exact = run(x.double(), y.double(), "reference")
    plain, ours = run(x, y, "reference"), run(x, y, "native")
    floor = 16 * torch.finfo(torch.float32).eps * exact.abs().max()
    allowed = 4 * (plain - exact).abs().max() + floor
    assert_within((ours - exact).abs().max(), allowed, op="flow", backend="native")
    # In float64: by no more than an ulp at each step, grown as one at the start grows.
    nudged = run(
        torch.nextafter(x.double(), x.new_tensor(torch.inf).double()), y.double(), "reference"
    )
    grown = (nudged - exact).abs().max() + torch.finfo(torch.float64).eps * exact.abs().max()
    assert (run(x.double(), y.double(), "native") - exact).abs().max() <= 100 * grown


@each_kernel
def test_a_small_step_lowers_mmd2(kernel):
    x, y = particles_and_data()
    after = dk.flow(x, y, kernel, step_size=1e-3, steps=1).particles
    before = dk.mmd2(x, y, kernel, estimator="biased")
    assert dk.mmd2(after, y, kernel, estimator="biased") < before


# -- Schedules, batches, pieces -------------------------------------------------------------------


def test_a_table_of_widths_is_the_flow_step_by_step():
    x, y = particles_and_data()
    sigmas, sizes = torch.linspace(1.0, 0.3, 6), torch.linspace(0.5, 0.1, 6)
    z = x
    for i, (sigma, size) in enumerate(zip(sigmas.tolist(), sizes.tolist(), strict=True)):
        how = {"step_size": size, "noise": 0.1, "seed": 1, "first_step": i}
        z = dk.flow(z, y, dk.gaussian(sigma), steps=1, **how).particles
    how = {"noise": 0.1, "seed": 1, "record_every": 3}
    got = dk.flow(x, y, dk.gaussian(sigmas), step_size=sizes, steps=6, **how)
    torch.testing.assert_close(got.particles, z)
    torch.testing.assert_close(got.mmd2[-1], dk.mmd2(z, y, dk.gaussian(0.3)))


@each_backend
@pytest.mark.parametrize("d", [2, 10])
def test_a_batch_is_the_flows_one_by_one_bit_for_bit(name, d):
    columns = 300 if name == "native" else 20  # tiles of native; the interpreter is slow
    x, y = particles_and_data(n=9, m=columns, d=d, dtype=torch.float32)
    many, data = torch.stack([x, x + 1, x - 2]), torch.stack([y, 2 * y, y - 1])
    sigma, size = torch.rand(4, 3) + 0.5, torch.rand(4, 3)
    how = {"steps": 4, "seed": 5, "noise": 0.2, "momentum": 0.5, "backend": name}
    together = dk.flow(many, data, dk.gaussian(sigma), step_size=size, **how).particles
    for b in range(3):
        own = dk.gaussian(sigma[:, b].contiguous())
        alone = dk.flow(many[b], data[b], own, step_size=size[:, b], first_flow=b, **how)
        same = torch.equal if name == "native" else torch.allclose
        assert same(alone.particles, together[b])


def test_many_flows_to_shared_data_are_the_flows_one_by_one():
    x, y = particles_and_data()
    many = torch.stack([x, x + 1, x - 2])
    together = dk.flow(many, y, dk.gaussian(2.0), step_size=0.5, steps=5).particles
    for block, start in zip(together, many, strict=True):
        alone = dk.flow(start, y, dk.gaussian(2.0), step_size=0.5, steps=5).particles
        torch.testing.assert_close(block, alone)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("blocks", "n", "d"), [(1, 530, 2), (3, 300, 3), (1, 300, 9), (5, 20, 2)])
def test_results_are_the_same_bits_for_any_number_of_threads(blocks, n, d, dtype):
    x = torch.randn(blocks, n, d, dtype=dtype)
    y = torch.randn(400, d, dtype=dtype)
    how = {"step_size": 0.5, "steps": 12, "noise": 0.1, "seed": 1, "momentum": 0.5}
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        results.append(dk.flow(x, y, KERNELS["everything"], backend="native", **how).particles)
    torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_how_a_flow_is_cut_does_not_matter(monkeypatch):
    x, y = particles_and_data(dtype=torch.float32)
    how = {"step_size": 0.5, "steps": 23, "noise": 0.1, "seed": 1, "momentum": 0.5}
    whole = dk.flow(x, y, dk.gaussian(1.0), **how).particles
    monkeypatch.setattr(flow_run, "_PIECE_S", 0)
    pieces = dk.flow(x, y, dk.gaussian(1.0), record_every=5, callback=lambda *_: None, **how)
    assert torch.equal(pieces.particles, whole)


# -- What comes back ------------------------------------------------------------------------------


def test_records_particles_and_mmd2():
    x, y = particles_and_data()
    k = dk.imq(1.0)
    result = dk.flow(x, y, k, step_size=0.5, steps=10, record_every=5)
    assert result.trajectory.shape == (2, *x.shape)
    torch.testing.assert_close(result.trajectory[-1], result.particles)
    torch.testing.assert_close(result.mmd2[-1], dk.mmd2(result.particles, y, k))


def test_the_callback_sees_the_particles_every_so_many_steps():
    x, y = particles_and_data()
    k, seen = dk.gaussian(1.0), []
    note = lambda step, particles: seen.append((step, particles))
    dk.flow(x, y, k, step_size=0.5, steps=10, callback=note, callback_every=4)
    assert [step for step, _ in seen] == [4, 8]
    torch.testing.assert_close(seen[0][1], dk.flow(x, y, k, step_size=0.5, steps=4).particles)


def test_the_input_stays():
    x, y = particles_and_data()
    kept = x.clone()
    dk.flow(x, y, dk.gaussian(1.0), step_size=1.0, steps=3)
    assert torch.equal(x, kept)


def test_half_precision_is_float32_rounded_once():
    x, y = (t.half() for t in particles_and_data(dtype=torch.float32))
    k = dk.gaussian(1.0)
    single = dk.flow(x.float(), y.float(), k, step_size=0.3, steps=5).particles
    assert torch.equal(dk.flow(x, y, k, step_size=0.3, steps=5).particles, single.half())


@each_backend
@pytest.mark.parametrize("d", [2, 9])
def test_a_flow_that_fails_says_where_and_keeps_its_last_finite_state(name, d):
    x, y = particles_and_data(d=d, dtype=torch.float32)
    many = torch.stack([x, x])
    size = torch.full((4, 2), 0.1)
    size[2, 1] = torch.inf
    how = {"step_size": size, "backend": name}
    with pytest.raises(dk.FlowError, match=r"flow \(1,\) are not finite after step 3") as caught:
        dk.flow(many, y, dk.gaussian(1.0), steps=4, **how)
    assert (caught.value.flow, caught.value.step) == ((1,), 3)
    for particles, steps in zip(caught.value.result.particles, (4, 2), strict=True):
        expected = dk.flow(x, y, dk.gaussian(1.0), step_size=0.1, steps=steps, backend=name)
        torch.testing.assert_close(particles, expected.particles)


def test_errors_say_what_must_hold_and_what_came():
    x, y = particles_and_data()
    k = dk.gaussian(1.0)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        dk.flow(x, y, k, step_size=0.1, steps=0)
    with pytest.raises(ValueError, match="step_size must be one number or 3, one per step, got 2"):
        dk.flow(x, y, k, step_size=[0.1, 0.2], steps=3)
    with pytest.raises(ValueError, match=r"parameters must broadcast .* \(3,\), got \(4,\)"):
        dk.flow(x, y, dk.gaussian(torch.ones(4)), step_size=0.1, steps=3)
    with pytest.raises(ValueError, match="must not require grad"):
        dk.flow(x.clone().requires_grad_(), y, k, step_size=0.1, steps=1)
    with pytest.raises(ValueError, match="momentum must be at least 0 and less than 1"):
        dk.flow(x, y, k, step_size=0.1, steps=1, momentum=1.0)
    with pytest.raises(TypeError, match="cannot run inside"):
        torch.func.vmap(lambda x: dk.flow(x, y, k, step_size=0.1, steps=1).particles)(x[None])
    with pytest.raises(FloatingPointError, match="not finite after step 2"):
        dk.flow(x, y, dk.polynomial(3), step_size=1e300, steps=2)


@each_backend
@pytest.mark.parametrize("d", [2, 12])
def test_a_gradient_whose_square_overflows_is_shortened_to_max_norm(name, d):
    x, y = torch.zeros(1, d), torch.zeros(1, d)
    y[0, 0] = 1e25
    how = {"step_size": 1.0, "steps": 1, "max_norm": 1.0, "backend": name}
    moved = dk.flow(x, y, dk.linear(), **how).particles
    torch.testing.assert_close(moved[0, 0], torch.tensor(1.0))
    z, g = torch.zeros(3, d), torch.zeros(3, d)
    g[0, 0], g[1, 1] = 1e25, -1e-30
    dk.flow_update(z, g, step_size=1.0, max_norm=1.0, backend=name)
    torch.testing.assert_close(z[:, 0], torch.tensor([-1.0, 0, 0]))
    assert z[1, 1] == -g[1, 1]


def test_a_batch_of_data_or_weights_alone_is_one_flow_for_each():
    x, y = particles_and_data()
    data, w = torch.stack([y, 2 * y, y - 1]), torch.rand(3, len(y), dtype=y.dtype, device=DEVICE)
    k, how = dk.gaussian(1.0), {"step_size": 0.5, "steps": 3, "record_every": 3}
    both = dk.flow(x, data, k, **how), dk.flow(x[None], y, k, weights=w, **how)
    for b in range(3):
        alone = dk.flow(x, data[b], k, **how), dk.flow(x, y, k, weights=w[b], **how)
        for many, one in zip(both, alone, strict=True):
            torch.testing.assert_close(many.particles[b], one.particles)
            torch.testing.assert_close(many.mmd2[:, b], one.mmd2)


def test_half_precision_that_rounds_to_infinity_is_an_error():
    x = torch.full((1, 2), 6e4, dtype=torch.float16)
    y = -x
    with pytest.raises(dk.FlowError, match="not finite after step 2"):
        dk.flow(x, y, dk.energy(), step_size=-1e4, steps=2)


def test_a_flow_error_names_the_number_that_first_flow_gives():
    x, y = particles_and_data()
    how = {"step_size": torch.inf, "steps": 1, "first_flow": 5}
    with pytest.raises(dk.FlowError, match=r"flow \(0,\) \(number 5\) are not finite after step 1"):
        dk.flow(x[None], y, dk.gaussian(1.0), **how)
    with pytest.raises(dk.FlowError, match=r"particles \(number 5\) are not finite after step 1"):
        dk.flow(x, y, dk.gaussian(1.0), **how)


@pytest.mark.parametrize(
    ("error", "changed", "message"),
    [
        (TypeError, {"steps": 2.0}, "flow: steps must be an integer, got 2.0"),
        (TypeError, {"callback_every": 2.5}, "flow: callback_every must be an integer, got 2.5"),
        (TypeError, {"seed": 1.5}, "flow: seed must be an integer, got 1.5"),
        (ValueError, {"first_step": 2**32}, "flow: first_step must be at least 0 and less than"),
        (ValueError, {"first_flow": -1}, "flow: first_flow must be at least 0 and less than"),
        (ValueError, {"precision": "foo"}, "precision must be 'highest' or 'high', got 'foo'"),
        (ValueError, {"backend": "foo"}, "backend must be 'auto', .*, got 'foo'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_before_the_first_step(error, changed, message):
    x, y = particles_and_data()
    with pytest.raises(error, match=message):
        dk.flow(x, y, dk.gaussian(1.0), **({"step_size": 0.1, "steps": 2} | changed))


def test_points_of_no_dimension_are_refused():
    x = torch.zeros(3, 0)
    with pytest.raises(ValueError, match=r"flow: d must be at least 1, got x of shape \(3, 0\)"):
        dk.flow(x, x, dk.gaussian(1.0), step_size=0.1, steps=1)
    with pytest.raises(ValueError, match=r"flow_update: d must be at least 1"):
        dk.flow_update(x, x, step_size=0.1)


def test_numbers_of_numpy_are_numbers():
    x, y = particles_and_data()
    run = lambda number: dk.flow(
        x, y, dk.gaussian(1.0), step_size=number(0.5), noise=number(0.25), steps=np.int64(2), seed=1
    )
    assert torch.equal(run(np.float32).particles, run(float).particles)


def test_flows_break_a_compiled_graph_and_go_on():
    x, y = torch.randn(30, 2), torch.randn(40, 2)
    kernel = dk.gaussian(1.0)

    def shifted(x):
        moved = dk.flow(2 * x, y, kernel, step_size=0.5, steps=3).particles + 1
        dk.flow_update(moved, x, step_size=0.5)
        return 3 * moved

    torch.testing.assert_close(torch.compile(shifted, backend="eager")(x), shifted(x))
    torch._dynamo.reset()


def test_flows_do_not_load_the_compiler():
    script = """
import sys, torch
import dmmd_kernels as dk
x = torch.randn(9, 2)
dk.flow(x, x + 1, dk.gaussian(1.0), step_size=0.1, steps=3)
dk.flow_update(x, x + 1, step_size=0.5)
print("torch._dynamo" in sys.modules)
"""
    run = [sys.executable, "-c", script]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_ctrl_c_returns_within_a_second():
    script = """
import os, signal, threading, time, torch
import dmmd_kernels as dk
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in the background
x, y = torch.randn(300, 2), torch.randn(300, 2)
sent = []
def interrupt():
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
threading.Timer(1.0, interrupt).start()
try:
    dk.flow(x, y, dk.gaussian(1.0), step_size=0.1, steps=10**8)
except KeyboardInterrupt:
    print(time.perf_counter() - sent[0])
"""
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1


@needs_native
def test_flows_run_in_many_python_threads_at_once():
    x, y = torch.randn(200, 2), torch.randn(300, 2)
    run = lambda: dk.flow(x, y, dk.gaussian(1.0), step_size=0.5, steps=40).particles
    expected, wrong = run(), []
    work = lambda: [wrong.append(1) for _ in range(3) if not torch.equal(run(), expected)]
    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@needs_native
def test_a_forked_child_can_flow():
    """After a parallel region in the parent, waiting for OpenMP's threads would hang."""
    x, y = torch.randn(400, 2), torch.randn(400, 2)
    run = lambda: dk.flow(x, y, dk.gaussian(1.0), step_size=0.5, steps=5).particles
    expected = run()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if torch.equal(run(), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert native_flow.why_no_flow(x, None) is None
