"""Folders of composed scenes: COCO's JSON, PNG label maps and, for videos, MOTChallenge's files.

Stills: ``images/SPLIT/*.jpg``, ``labels/SPLIT/*.png``, ``annotations/SPLIT.json``. Videos:
``SPLIT/scene-0001/{img1/*.jpg, labels/*.png, gt/gt.txt, seqinfo.ini}`` and the same JSON, with
``videos``, ``frame_id`` and ``instance_id`` as in COCO-VID. ``scenes.json`` says what is there.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ...tracking import mot_files
from ..errors import InputError
from .pasting import Palette, Scene, Thing, still, video
from .sprites import Sprites, read_backgrounds, read_sprite, split_sprites

FRAME_RATE = 25
PERSON = 1  # the class that MOTChallenge's evaluation looks at; ours are in the JSON


class Plan(NamedTuple):
    """What is to be composed."""

    seed: int = 0
    size: tuple[int, int] = (192, 192)  # width, height
    train: int = 400  # images, or videos
    val: int = 100
    things: tuple[int, int] = (2, 6)  # cut-outs on a still, least and most
    moving: bool = False
    frames: int = 200  # of a video
    targets: int = 8
    camera: float = 0.0

    def seed_of(self, split: str, number: int) -> tuple[int, int, int]:
        """What decides one image or video, whatever the numbers of others."""
        return self.seed, ("train", "val").index(split), number

    def check(self) -> None:
        """Refuse numbers of which no scenes can be made.

        Raises:
            InputError: Names the first of them.
        """
        least = {"size": 16, "train": 1, "val": 1, "frames": 1, "targets": 1}
        for name, floor in least.items():
            value = min(self.size) if name == "size" else getattr(self, name)
            if value < floor:
                raise InputError(f"{name} is {value}, expected at least {floor}")
        first, last = self.things
        if not 1 <= first <= last:
            raise InputError(f"things are {first} to {last}, expected rising numbers from 1")
        if not 0 <= self.camera <= 0.5:
            raise InputError(f"camera is {self.camera}, expected 0 to 0.5")


class Coco:
    """COCO's JSON of one split, scene by scene."""

    def __init__(self, categories: Sequence[str]):
        self.images: list[dict] = []
        self.annotations: list[dict] = []
        self.videos: list[dict] = []
        self.categories = [{"id": i + 1, "name": name} for i, name in enumerate(categories)]

    def add(self, scene: Scene, file_name: str, **image: int) -> None:
        """Add an image; ``image`` has what else is known of it."""
        height, width = scene.image.shape[:2]
        number = len(self.images) + 1
        self.images.append(
            {"id": number, "file_name": file_name, "width": width, "height": height, **image}
        )
        for thing in scene.things:
            if thing.mask.any():
                self.annotations.append(
                    {"id": len(self.annotations) + 1, "image_id": number, **annotation(thing)}
                )

    def data(self) -> bytes:
        """The file."""
        content = {name: getattr(self, name) for name in ("images", "annotations", "categories")}
        return json.dumps(content | ({"videos": self.videos} if self.videos else {})).encode()


def annotation(thing: Thing) -> dict:
    """The visible part of a thing; a crowd, which does not count, where too much is hidden."""
    rle = coco_mask.encode(np.asfortranarray(thing.mask, dtype=np.uint8))
    rows, columns = (np.flatnonzero(thing.mask.any(axis)) for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    return {
        "category_id": thing.placed.category + 1,
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(thing.mask.sum()),
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
        "iscrowd": int(not thing.counts),
        "instance_id": thing.placed.track,
        "visible": round(thing.visible, 4),
    }


def compose(folder: str | Path, sprites: Sprites, plan: Plan) -> bool:
    """Compose what ``plan`` says into ``folder``, which appears only when it is whole.

    Returns:
        Whether there was anything to do: equal scenes in ``folder`` are left as they are.

    Raises:
        InputError: ``folder`` has something else, ``plan`` bad numbers, or there are too few
            cut-outs.
    """
    plan.check()
    folder = Path(folder)
    split = split_sprites(sprites, plan.seed)
    names = {s: {c: [p.name for p in paths] for c, paths in split[s].items()} for s in split}
    description = json.loads(json.dumps({"plan": plan._asdict(), "sprites": names}))
    if _holds(folder, description):
        return False
    staging = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    for name in split:
        _compose_split(staging, name, split[name], plan)
    (staging / "scenes.json").write_text(json.dumps(description, indent=1) + "\n")
    staging.rename(folder)
    return True


def _holds(folder: Path, description: dict) -> bool:
    """Whether the scenes of ``description`` are there.

    Raises:
        InputError: Something else is.
    """
    if not folder.exists():
        return False
    path = folder / "scenes.json"
    if not path.exists() or json.loads(path.read_text()) != description:
        raise InputError(
            f"{folder} holds something else than these scenes: delete it or name another"
        )
    return True


def _compose_split(folder: Path, split: str, sprites: Sprites, plan: Plan) -> None:
    palette = [[read_sprite(path) for path in paths] for paths in sprites.values()]
    backgrounds = read_backgrounds(split)
    coco = Coco(list(sprites))
    write = _write_videos if plan.moving else _write_stills
    write(folder, split, palette, backgrounds, plan, coco)
    _put(folder / "annotations" / f"{split}.json", coco.data())


def _write_stills(
    folder: Path,
    split: str,
    palette: Palette,
    backgrounds: Sequence[Image.Image],
    plan: Plan,
    coco: Coco,
) -> None:
    for number in range(getattr(plan, split)):
        seed = plan.seed_of(split, number)
        scene = still(seed, palette, backgrounds, plan.size, plan.things)
        name = f"{number + 1:06d}"
        _put(folder / "images" / split / f"{name}.jpg", jpeg(scene.image))
        _put(folder / "labels" / split / f"{name}.png", png(scene.labels()))
        coco.add(scene, f"{name}.jpg")


def _write_videos(
    folder: Path,
    split: str,
    palette: Palette,
    backgrounds: Sequence[Image.Image],
    plan: Plan,
    coco: Coco,
) -> None:
    movement = {"frames": plan.frames, "targets": plan.targets, "camera": plan.camera}
    for number in range(getattr(plan, split)):
        seed = plan.seed_of(split, number)
        scenes = video(seed, palette, backgrounds, plan.size, **movement)
        name = f"scene-{number + 1:04d}"
        coco.videos.append({"id": number + 1, "name": name})
        write_video(folder / split / name, scenes, plan.size, coco)


def write_video(folder: Path, scenes: Iterable[Scene], size: tuple[int, int], coco: Coco) -> None:
    """Write one video in MOTChallenge's form and add its frames to ``coco``.

    ``gt.txt`` has whole boxes, as MOTChallenge's does; those of which too little is visible are
    marked 0, which readers leave out.
    """
    frames = []
    for number, scene in enumerate(scenes, start=1):
        image = f"img1/{number:06d}.jpg"
        _put(folder / image, jpeg(scene.image))
        _put(folder / "labels" / f"{number:06d}.png", png(scene.labels()))
        video_id = coco.videos[-1]["id"]
        coco.add(scene, f"{folder.name}/{image}", video_id=video_id, frame_id=number - 1)
        frames.append((number, whole_boxes_of(scene)))
    mot_files.write(folder / "gt/gt.txt", frames, label=PERSON)
    info = {
        "name": folder.name,
        "imDir": "img1",
        "frameRate": FRAME_RATE,
        "seqLength": len(frames),
        "imWidth": size[0],
        "imHeight": size[1],
        "imExt": ".jpg",
    }
    lines = ["[Sequence]", *(f"{key}={value}" for key, value in info.items())]
    _put(folder / "seqinfo.ini", ("\n".join(lines) + "\n").encode())


def whole_boxes_of(scene: Scene) -> mot_files.Boxes:
    """Boxes of all things of which something is visible, hidden parts included."""
    shown = [thing for thing in scene.things if thing.mask.any()]
    return mot_files.Boxes(
        np.array([thing.placed.track for thing in shown], np.int64),
        np.array([thing.placed.box() for thing in shown], float).reshape(-1, 4),
        np.array([float(thing.counts) for thing in shown]),
    )


def jpeg(image: np.ndarray) -> bytes:
    """An image (H, W, 3) as JPEG."""
    return _encode(image, format="JPEG", quality=95)


def png(labels: np.ndarray) -> bytes:
    """A label map (H, W) as PNG."""
    return _encode(labels, format="PNG")


def _encode(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **options)
    return buffer.getvalue()


def _put(path: Path, data: bytes) -> None:
    """Write a file of a folder that is not in its place yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
