"""Multi-object tracking by detection: MambaTrack's association around any model of motion."""

import warnings
from typing import Any

import numpy as np

from .association import assign
from .boxes import have_area, iou_matrix, to_centers, to_corners
from .motion import Motion, State

NONE = -1


class MambaTracker:
    """Gives detections the numbers of the targets they show, frame by frame.

    In every frame: (1) expected boxes of the targets that the last frame showed are matched with
    the detections by overlap; (2) what is left is matched with the expected boxes of all other
    targets; (3) matched targets go on from the detection, others from what was expected; (4) a
    detection left over starts a target if its score is above `new_score`; (5) targets not seen for
    `patience` frames are dropped.

    The paper gives `new_score` and `patience`; the gates and the lowest score are decided here.

    Args:
        motion: where targets are expected, such as `LearnedMotion` or `Kalman`.
        active_iou: overlap that a match in (1) has to exceed.
        lost_iou: overlap that a match in (2) has to exceed.
        low_score: detections below this score are not looked at.
        new_score: score above which a detection starts a target.
        patience: frames that a target may go unseen.
        by_label: a target keeps its label; matches are between equal ones.

    Source: MambaTrack, arXiv 2408.09178, section 3.4.
    """

    def __init__(
        self,
        motion: Motion,
        *,
        active_iou: float = 0.3,
        lost_iou: float = 0.3,
        low_score: float = 0.3,
        new_score: float = 0.6,
        patience: int = 30,
        by_label: bool = True,
    ):
        self.motion = motion
        self.active_iou, self.lost_iou = active_iou, lost_iou
        self.low_score, self.new_score = low_score, new_score
        self.patience, self.by_label = patience, by_label
        self.reset()

    def reset(self) -> None:
        """Forget all targets and number from 1 again: a new video."""
        self.next_id = 1
        self.state: State = self.motion.begin(np.zeros((0, 4)))
        self.ids = self.labels = self.unseen = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Targets that are followed, seen or not."""
        return len(self.ids)

    def update(
        self, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray | None = None
    ) -> np.ndarray:
        """Take the detections of the next frame.

        Args:
            boxes: (n, 4) corners (x1, y1, x2, y2) in pixels. Those without an area, or not finite,
                are passed over with a warning.
            scores: (n,) between 0 and 1.
            labels: (n,) class numbers; None for a single class.

        Returns:
            (n,) numbers of the targets, from 1; -1 for detections that show none.

        Raises:
            ValueError: for arrays of other shapes.
        """
        boxes, scores, labels = checked(boxes, scores, labels)
        usable = np.flatnonzero(sound(boxes) & (scores >= self.low_score))
        found, which = boxes[usable], labels[usable]
        state, expected = self.motion.predict(self.state)
        targets = self.match(to_corners(expected), found, which)
        self.go_on(state, expected, found, targets)
        ids = np.where(targets == NONE, NONE, np.append(self.ids, NONE)[targets])
        new = (targets == NONE) & (scores[usable] > self.new_score)
        ids[new] = self.start(found[new], which[new])
        self.drop()
        answer = np.full(len(boxes), NONE)
        answer[usable] = ids
        return answer

    def update_with_detections(self, detections: Any) -> Any:
        """The same for `supervision.Detections`: those that show a target, with `tracker_id`."""
        n = len(detections)
        scores = np.ones(n) if detections.confidence is None else detections.confidence
        ids = self.update(detections.xyxy, scores, detections.class_id)
        tracked = detections[ids != NONE]
        tracked.tracker_id = ids[ids != NONE]
        return tracked

    def match(self, expected: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(m,) the target, by row, that each detection belongs to: those seen last come first."""
        overlap = iou_matrix(expected, boxes)
        if self.by_label:
            overlap = np.where(self.labels[:, None] == labels[None], overlap, 0)
        targets = np.full(len(boxes), NONE)
        active = self.unseen == 0
        for group, floor in ((active, self.active_iou), (~active, self.lost_iou)):
            rows, columns = np.flatnonzero(group), np.flatnonzero(targets == NONE)
            r, c = assign(overlap[np.ix_(rows, columns)], floor)
            targets[columns[c]] = rows[r]
        return targets

    def go_on(
        self, state: State, expected: np.ndarray, boxes: np.ndarray, targets: np.ndarray
    ) -> None:
        """Correct the targets by the detections that belong to them."""
        seen = np.zeros(len(self), bool)
        matched = targets != NONE
        seen[targets[matched]] = True
        at = expected.copy()
        at[targets[matched]] = to_centers(boxes[matched])
        self.state = self.motion.correct(state, at, seen)
        self.unseen = np.where(seen, 0, self.unseen + 1)

    def start(self, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Follow new targets; returns their numbers."""
        n = len(boxes)
        ids = np.arange(self.next_id, self.next_id + n)
        self.next_id += n
        begun = self.motion.begin(to_centers(boxes))
        self.state = {name: np.concatenate([v, begun[name]]) for name, v in self.state.items()}
        self.ids = np.concatenate([self.ids, ids])
        self.labels = np.concatenate([self.labels, labels])
        self.unseen = np.concatenate([self.unseen, np.zeros(n, np.int64)])
        return ids

    def drop(self) -> None:
        """Forget targets that went unseen for too long."""
        kept = self.unseen < self.patience
        self.state = {name: value[kept] for name, value in self.state.items()}
        self.ids, self.labels, self.unseen = (v[kept] for v in (self.ids, self.labels, self.unseen))


def checked(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4) and scores (n,) as float64, labels (n,) as int64, or a sentence."""
    boxes = np.asarray(boxes, np.float64)
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes have shape {boxes.shape}, expected (n, 4) corners")
    scores = np.asarray(scores, np.float64).reshape(-1)
    labels = np.zeros(len(boxes)) if labels is None else np.asarray(labels).reshape(-1)
    for name, values in (("scores", scores), ("labels", labels)):
        if len(values) != len(boxes):
            raise ValueError(f"{name} has length {len(values)}, expected {len(boxes)}, as boxes")
    return boxes, scores, labels.astype(np.int64)


def sound(boxes: np.ndarray) -> np.ndarray:
    """(n,) whether boxes have an area; a warning names the first that has none."""
    usable = have_area(boxes)
    if not usable.all():
        first = np.flatnonzero(~usable)[0]
        warnings.warn(
            f"boxes[{first}] is {boxes[first].tolist()}, without an area: "
            f"{(~usable).sum()} of {len(boxes)} passed over",
            stacklevel=3,
        )
    return usable
