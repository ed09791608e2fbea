"""Where targets will be in the next frame: one interface for every model of motion.

A model keeps no targets itself. It works on a `State`: arrays with one row a target, which the
tracker joins, selects and hands back. Boxes are (n, 4) centres and sizes (cx, cy, w, h) in pixels.
"""

from abc import ABC, abstractmethod

import numpy as np

State = dict[str, np.ndarray]


class Motion(ABC):
    """A model of motion, for any number of targets at once."""

    @abstractmethod
    def begin(self, boxes: np.ndarray) -> State:
        """State of new targets, seen at boxes (n, 4) for the first time."""

    @abstractmethod
    def predict(self, state: State) -> tuple[State, np.ndarray]:
        """One frame on: the state then, and the boxes (n, 4) where targets are expected."""

    @abstractmethod
    def correct(self, state: State, boxes: np.ndarray, seen: np.ndarray) -> State:
        """State after the frame: targets were seen (n,) at boxes (n, 4), or else not seen.

        Boxes of targets that were not seen are those that `predict` gave.
        """


class Stationary(Motion):
    """Targets stay where they were seen last: association by overlap alone."""

    def begin(self, boxes: np.ndarray) -> State:
        """The boxes are the state."""
        return {"box": boxes}

    def predict(self, state: State) -> tuple[State, np.ndarray]:
        """The same boxes."""
        return state, state["box"]

    def correct(self, state: State, boxes: np.ndarray, seen: np.ndarray) -> State:
        """The new boxes, which are the old ones where nothing was seen."""
        return {"box": boxes}


class ConstantVelocity(Motion):
    """Centres move on as they did between the last two sightings; sizes stay."""

    def begin(self, boxes: np.ndarray) -> State:
        """At rest."""
        n = len(boxes)
        return {"box": boxes, "velocity": np.zeros((n, 2)), "gap": np.zeros(n)}

    def predict(self, state: State) -> tuple[State, np.ndarray]:
        """Boxes moved on by the velocity, as many times as frames have passed."""
        gap = state["gap"] + 1
        shift = state["velocity"] * gap[:, None]
        moved = np.concatenate([state["box"][:, :2] + shift, state["box"][:, 2:]], axis=1)
        return {**state, "gap": gap}, moved

    def correct(self, state: State, boxes: np.ndarray, seen: np.ndarray) -> State:
        """The velocity is the way since the last sighting over the frames it took."""
        velocity = (boxes - state["box"])[:, :2] / state["gap"][:, None]
        return {
            "box": np.where(seen[:, None], boxes, state["box"]),
            "velocity": np.where(seen[:, None], velocity, state["velocity"]),
            "gap": np.where(seen, 0, state["gap"]),
        }


class Kalman(Motion):
    """Kalman filter of centre, aspect ratio w/h and height, moving at constant velocity.

    Standard deviations are parts of the height, as in DeepSORT and ByteTrack, and the height's
    velocity is forgotten where a target was not seen, as in the latter.

    Args:
        position: deviation of a position, as a part of the height.
        velocity: deviation of a velocity, as a part of the height.

    Source: DeepSORT, arXiv 1703.07402, section 2.1; ByteTrack, arXiv 2110.06864.
    """

    ASPECT, ASPECT_VELOCITY, ASPECT_SEEN = 1e-2, 1e-5, 1e-1  # deviations that no height scales

    def __init__(self, position: float = 1 / 20, velocity: float = 1 / 160):
        self.position, self.velocity = position, velocity
        self.step = np.eye(8) + np.eye(8, k=4)

    def variances(self, height: np.ndarray, scales: tuple[float, ...]) -> np.ndarray:
        """(n, 8, 8) diagonal: the deviations of position and velocity times `scales`, squared."""
        p, v = scales[0] * self.position * height, scales[1] * self.velocity * height
        aspects = (np.full_like(height, a) for a in (self.ASPECT, self.ASPECT_VELOCITY))
        aspect, aspect_velocity = aspects
        deviations = np.stack([p, p, aspect, p, v, v, aspect_velocity, v], axis=1)
        return deviations[:, :, None] ** 2 * np.eye(8)

    def begin(self, boxes: np.ndarray) -> State:
        """At rest, with wide deviations."""
        mean = np.concatenate([self.measured(boxes), np.zeros((len(boxes), 4))], axis=1)
        return {"mean": mean, "covariance": self.variances(boxes[:, 3], (2, 10))}

    def predict(self, state: State) -> tuple[State, np.ndarray]:
        """Mean and covariance one frame on."""
        noise = self.variances(state["mean"][:, 3], (1, 1))
        mean = state["mean"] @ self.step.T
        covariance = self.step @ state["covariance"] @ self.step.T + noise
        return {"mean": mean, "covariance": covariance}, self.boxes(mean)

    def correct(self, state: State, boxes: np.ndarray, seen: np.ndarray) -> State:
        """The filter's update for what was seen."""
        mean, covariance = state["mean"], state["covariance"]
        noise = self.variances(mean[:, 3], (1, 1))[:, :4, :4]
        noise[:, 2, 2] = self.ASPECT_SEEN**2
        projected = covariance[:, :4, :4] + noise
        gain = np.linalg.solve(projected, covariance[:, :4]).transpose(0, 2, 1)
        surprise = self.measured(boxes) - mean[:, :4]
        new_mean = mean + (gain @ surprise[:, :, None])[:, :, 0]
        new_covariance = covariance - gain @ projected @ gain.transpose(0, 2, 1)
        coasting = mean * (np.arange(8) != 7)
        return {
            "mean": np.where(seen[:, None], new_mean, coasting),
            "covariance": np.where(seen[:, None, None], new_covariance, covariance),
        }

    @staticmethod
    def measured(boxes: np.ndarray) -> np.ndarray:
        """(cx, cy, w, h) → (cx, cy, w/h, h)."""
        return np.concatenate([boxes[:, :2], boxes[:, 2:3] / boxes[:, 3:], boxes[:, 3:]], axis=1)

    @staticmethod
    def boxes(mean: np.ndarray) -> np.ndarray:
        """The boxes (cx, cy, w, h) of means, at least a pixel wide and high."""
        size = np.stack([mean[:, 2] * mean[:, 3], mean[:, 3]], axis=1)
        return np.concatenate([mean[:, :2], np.clip(size, 1, None)], axis=1)
