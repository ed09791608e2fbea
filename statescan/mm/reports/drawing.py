"""Boxes, masks and label maps drawn into images, of the truth and of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

try:
    import supervision as sv
except ImportError as error:
    raise ImportError(
        f"drawing needs supervision, but {error}: pip install statescan[mm]"
    ) from error

SMALLEST = 224  # pixels of the shorter side that a written answer needs


class Painter:
    """Draws into copies of images, which are (H, W, 3) uint8, BGR as OpenCV reads them.

    Args:
        classes: Names of the classes; one that has none is called by its number.
        palette: (R, G, B) of each class; supervision's colours where there are none, or those of
            other classes, which MMDetection leaves in place.
        threshold: Predictions with less score are not drawn.
    """

    def __init__(
        self,
        classes: Sequence[str],
        palette: Sequence[tuple[int, int, int]] | None = None,
        threshold: float = 0.3,
    ):
        self.classes, self.threshold = tuple(classes), threshold
        own = palette is not None and len(palette) == len(self.classes) > 0
        default = sv.ColorPalette.DEFAULT.colors
        colors = [sv.Color(*map(int, rgb)) for rgb in palette] if own else default
        self.palette = sv.ColorPalette(colors)
        self.ink = sv.ColorPalette([_readable_on(color) for color in colors])

    def prediction(self, image: np.ndarray, found: Any) -> np.ndarray:
        """The image with what a `statescan.mm.inference.predictor.Predictor` found in it."""
        if isinstance(found, dict):
            return self.answer(image, found["scores"].cpu().numpy())
        if "pred_sem_seg" in found:
            return self.label_map(image, found.pred_sem_seg.data[0].numpy())
        return self.instances(image, sv.Detections.from_mmdetection(found))

    def truth(self, image: np.ndarray, sample: Any) -> np.ndarray:
        """The image with the annotations of a data sample that a pipeline packed."""
        if "gt_sem_seg" in sample:
            return self.label_map(image, sample.gt_sem_seg.data[0].numpy())
        found = sample.gt_instances
        boxes = getattr(found.bboxes, "tensor", found.bboxes).numpy().reshape(-1, 4)
        masks = found.masks.to_ndarray().astype(bool) if "masks" in found else None
        return self.instances(image, sv.Detections(boxes, masks, class_id=found.labels.numpy()))

    def instances(self, image: np.ndarray, found: sv.Detections) -> np.ndarray:
        """The image with masks, where there are any, boxes, names and, of predictions, scores."""
        found, drawn = self._sure(found), image.copy()
        if found.mask is not None:
            drawn = sv.MaskAnnotator(self.palette, opacity=0.45).annotate(drawn, found)
        thickness = sv.calculate_optimal_line_thickness(image.shape[1::-1])
        drawn = sv.BoxAnnotator(self.palette, thickness=thickness).annotate(drawn, found)
        return self._names(drawn, found, sv.Position.TOP_LEFT)

    def label_map(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The image under the colours of (H, W) class numbers; others than of classes stay bare."""
        present = np.unique(labels)
        present = present[(present >= 0) & (present < len(self.classes))].astype(int)
        masks = labels == present[:, None, None]
        found = sv.Detections(sv.mask_to_xyxy(masks), masks, class_id=present)
        drawn = sv.MaskAnnotator(self.palette, opacity=0.5).annotate(image.copy(), found)
        found.mask = np.array([*map(_largest_region, masks)], dtype=bool).reshape(masks.shape)
        return self._names(drawn, found, sv.Position.CENTER_OF_MASS)

    def answer(self, image: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The image, enlarged where it is tiny, with the best of (classes,) scores."""
        factor = max(1.0, SMALLEST / min(image.shape[:2]))
        drawn = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
        whole = np.array([[0, 0, drawn.shape[1], drawn.shape[0]]])
        best = scores.argmax(keepdims=True)
        found = sv.Detections(whole, confidence=scores[best], class_id=best)
        return self._names(drawn, found, sv.Position.TOP_LEFT)

    def name(self, number: int) -> str:
        """What class ``number`` is called."""
        return self.classes[number] if number < len(self.classes) else f"class {number}"

    def _sure(self, found: sv.Detections) -> sv.Detections:
        """Those over the threshold, of predictions."""
        return found if found.confidence is None else found[found.confidence >= self.threshold]

    def _names(self, image: np.ndarray, found: sv.Detections, where: sv.Position) -> np.ndarray:
        texts = [self.name(number) for number in found.class_id]
        if found.confidence is not None:
            scores = (f" {score:.0%}" for score in found.confidence)
            texts = [text + score for text, score in zip(texts, scores, strict=True)]
        scale = max(0.35, 0.8 * sv.calculate_optimal_text_scale(image.shape[1::-1]))
        height = round(38 * scale)  # of a name with its padding, above the box where it fits
        anchors = sv.Detections(found.xyxy.copy(), found.mask, class_id=found.class_id)
        anchors.xyxy[:, 1] = anchors.xyxy[:, 1].clip(min=height)
        annotator = sv.LabelAnnotator(
            self.palette,
            text_color=self.ink,
            text_scale=scale,
            text_padding=round(8 * scale),
            text_position=where,
        )
        return annotator.annotate(image, anchors, labels=texts)


class SmallPainter(Painter):
    """Draws into small images: no names; masks, each in a colour of its own, in place of boxes."""

    def instances(self, image: np.ndarray, found: sv.Detections) -> np.ndarray:
        """The image with masks or, where there are none, boxes."""
        if found.mask is None:
            return super().instances(image, found)
        annotator = sv.MaskAnnotator(self.palette, color_lookup=sv.ColorLookup.INDEX)
        return annotator.annotate(image.copy(), self._sure(found))

    def _names(self, image: np.ndarray, found: sv.Detections, where: sv.Position) -> np.ndarray:
        return image


def _largest_region(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a (H, W) mask that is not empty."""
    _, regions, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return regions == 1 + statistics[1:, cv2.CC_STAT_AREA].argmax()


def _readable_on(color: sv.Color) -> sv.Color:
    """Black on bright colours, white on dark ones."""
    brightness = 0.299 * color.r + 0.587 * color.g + 0.114 * color.b
    return sv.Color.BLACK if brightness > 150 else sv.Color.WHITE
