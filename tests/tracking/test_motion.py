"""Models of motion on targets whose next box is known."""

import numpy as np
import pytest
import torch

from statescan.tracking import (
    ChangeUnit,
    ConstantVelocity,
    Kalman,
    LearnedMotion,
    MotionPredictor,
    Stationary,
)

BOX = np.array([[50.0, 40.0, 10.0, 20.0], [200.0, 80.0, 30.0, 60.0]])
STEP = np.array([[3.0, -1.0, 0.0, 0.0], [-2.0, 2.0, 0.0, 0.0]])


def tiny(**kwargs):
    torch.manual_seed(0)
    return MotionPredictor(dim=16, depth=2, steps=4, d_state=4, **kwargs).eval()


def follow(motion, frames, seen=lambda t: True):
    """State and expectation after seeing BOX move by STEP for so many frames."""
    state = motion.begin(BOX)
    for t in range(1, frames):
        state, expected = motion.predict(state)
        there = np.full(len(BOX), seen(t))
        state = motion.correct(state, np.where(there[:, None], BOX + t * STEP, expected), there)
    return motion.predict(state)


MOTIONS = {
    "stationary": Stationary,
    "constant": ConstantVelocity,
    "kalman": Kalman,
    "learned": lambda: LearnedMotion(tiny()),
}


@pytest.fixture(params=MOTIONS)
def motion(request):
    return MOTIONS[request.param]()


def test_targets_do_not_know_of_each_other(motion):
    _, both = follow(motion, 6)
    for i in (0, 1):
        state = motion.begin(BOX[i : i + 1])
        for t in range(1, 6):
            state, _ = motion.predict(state)
            state = motion.correct(state, BOX[i : i + 1] + t * STEP[i], np.array([True]))
        np.testing.assert_allclose(motion.predict(state)[1][0], both[i], rtol=1e-5)


def test_no_targets(motion):
    state, expected = motion.predict(motion.begin(np.zeros((0, 4))))
    assert expected.shape == (0, 4)
    state = motion.correct(state, expected, np.zeros(0, bool))
    assert {len(value) for value in state.values()} == {0}


def test_stationary():
    np.testing.assert_array_equal(follow(Stationary(), 4)[1], BOX + 3 * STEP)


def test_constant_velocity_is_exact_and_coasts():
    np.testing.assert_allclose(follow(ConstantVelocity(), 4)[1], BOX + 4 * STEP)
    np.testing.assert_allclose(
        follow(ConstantVelocity(), 8, seen=lambda t: t < 4)[1], BOX + 8 * STEP
    )


def test_constant_velocity_shares_a_gap_among_its_frames():
    _, expected = follow(ConstantVelocity(), 7, seen=lambda t: t in (1, 6))
    np.testing.assert_allclose(expected, BOX + 7 * STEP)


def test_kalman_learns_a_velocity():
    _, expected = follow(Kalman(), 60)
    np.testing.assert_allclose(expected, BOX + 60 * STEP, atol=0.2)


def test_kalman_is_a_filter():
    """One step of the textbook filter for one target, written out."""
    motion = Kalman()
    state, _ = motion.predict(motion.begin(BOX[:1]))
    mean, P = state["mean"][0], state["covariance"][0]
    H, R = np.eye(4, 8), np.diag([1.0, 1.0, 0.1, 1.0]) ** 2  # height 20: 20 / 20 = 1
    z = np.array([53.0, 39.0, 0.5, 20.0])
    K = P @ H.T @ np.linalg.inv(H @ P @ H.T + R)
    corrected = motion.correct(state, BOX[:1] + STEP[:1], np.array([True]))
    np.testing.assert_allclose(corrected["mean"][0], mean + K @ (z - H @ mean))
    np.testing.assert_allclose(corrected["covariance"][0], (np.eye(8) - K @ H) @ P, atol=1e-12)


def test_kalman_covariance_grows_unseen():
    grown = [
        np.trace(follow(Kalman(), 10, lambda t, n=n: t < n)[0]["covariance"][0]) for n in (9, 3)
    ]
    assert grown[0] < grown[1]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_missing_steps_leave_no_trace(length):
    torch.manual_seed(0)
    model, x = tiny(), torch.randn(3, 4, 4)
    count = torch.tensor([length, 4, 2])
    full = model(x, count)
    alone = model(x[:1, -length:], count[:1])
    torch.testing.assert_close(full[:1], alone, rtol=1e-4, atol=1e-6)
    noisy = x.clone()
    noisy[0, :-length] = torch.nan
    torch.testing.assert_close(model(noisy, count), full)


def test_directions_are_two_mambas():
    """Steps in reverse order and the two Mambas swapped give the same output, reversed."""
    block, swapped = tiny().blocks[0], tiny().blocks[0]
    swapped.forwards.load_state_dict(block.backwards.state_dict())
    swapped.backwards.load_state_dict(block.forwards.state_dict())
    x, mask = torch.randn(2, 5, 16), torch.ones(2, 5, 1)
    y = block(x, mask)
    torch.testing.assert_close(swapped(x.flip(1), mask).flip(1), y)
    assert not torch.allclose(block(x.flip(1), mask).flip(1), y)


def test_gradients_reach_every_parameter():
    model = tiny()
    model(torch.randn(4, 4, 4), torch.tensor([1, 2, 3, 4])).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_without_a_past_a_target_stays():
    motion = LearnedMotion(tiny())
    np.testing.assert_array_equal(motion.predict(motion.begin(BOX))[1], BOX)


class Drift(MotionPredictor):
    """Expects the mean of the changes it is given."""

    def forward(self, changes, count):
        there = torch.arange(changes.shape[1]) >= changes.shape[1] - count[:, None]
        return (changes * there.unsqueeze(-1)).sum(1) / count.clamp_min(1)[:, None]


@pytest.mark.parametrize("unit", [ChangeUnit(), ChangeUnit("image", 0.1, (480, 640))])
def test_changes_are_read_as_they_are_written(unit):
    motion = LearnedMotion(Drift(dim=4, depth=1, steps=4), unit=unit)
    np.testing.assert_allclose(follow(motion, 7)[1], BOX + 7 * STEP, rtol=1e-5)


def test_patching_moves_unseen_targets_on():
    def at(patch):
        motion = LearnedMotion(Drift(dim=4, depth=1, steps=4), patch=patch)
        return follow(motion, 9, seen=lambda t: t < 5)[1]

    np.testing.assert_allclose(at(True), BOX + 9 * STEP, rtol=1e-5)
    np.testing.assert_allclose(at(False), BOX + 5 * STEP, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("picture",), "relative_to is 'picture', expected one of"),
        (("image",), "image_size is None and relative_to 'image'"),
        (("box", 1.0, (4, 4)), r"image_size is \(4, 4\) and relative_to 'box'"),
    ],
)
def test_bad_units(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        ChangeUnit(*arguments)
