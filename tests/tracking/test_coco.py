"""MOTChallenge ground truth as COCO's, read back by pycocotools."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO

from statescan.tracking.coco import to_coco
from statescan.tracking.mot_files import Boxes

FRAMES = {
    1: Boxes(np.array([7, 8]), np.array([[10.0, 20, 30, 60], [-5, 0, 15, 10]]), np.ones(2)),
    3: Boxes(np.array([7]), np.array([[120.0, 20, 130, 60]]), np.ones(1)),
}


def test_boxes_are_cut_to_the_image_and_keep_their_track():
    data = to_coco(FRAMES, [(1, "1.jpg"), (2, "2.jpg"), (3, "3.jpg")], (100, 50))
    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    assert coco.getImgIds() == [1, 2, 3]  # frame 2 has no targets
    boxes = {a["track_id"]: (a["bbox"], a["area"]) for a in coco.imgToAnns[1]}
    assert boxes == {7: ([10, 20, 20, 30], 600), 8: ([0, 0, 15, 10], 150)}
    assert coco.imgToAnns[2] == coco.imgToAnns[3] == []  # one box is outside
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["pedestrian"]
