#!/usr/bin/env python
"""Write COCO annotations of the nuclei of DSB2018: ``python tools/convert_dsb2018.py FOLDER``.

FOLDER has ``images/*.png``, ``instances/*.png`` of the same names, whose uint16 pixels number the
nuclei (0 is background), and ``splits.json`` with the file names of ``train`` and ``val``.
``--masks OTHER`` writes ``OTHER/{train,val}/{images,masks}/*.png`` instead, nuclei as 255.
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from statescan.files import atomic_write
from statescan.mm import InputError
from statescan.mm.training.launch import run_tool


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Write COCO annotations of DSB2018's nuclei.")
    parser.add_argument("folder", type=Path, help="with images/, instances/ and splits.json")
    parser.add_argument("--out", type=Path, help="folder of instances_*.json; default: FOLDER")
    parser.add_argument("--masks", type=Path, help="folder of images and binary masks instead")
    return parser.parse_args()


def encode(mask: np.ndarray) -> dict:
    """COCO's run-length code of an (H, W) mask: holes and separate parts are kept as they are."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode()}


def instances(ids: np.ndarray) -> list[dict]:
    """Annotations of an (H, W) map of instance numbers, without ``id`` and ``image_id``."""
    found = []
    for number in np.unique(ids[ids > 0]):
        mask = ids == number
        (top, left), (bottom, right) = (f(np.argwhere(mask), axis=0) for f in (np.min, np.max))
        box = [left, top, right - left + 1, bottom - top + 1]
        found.append(
            {
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [int(value) for value in box],
                "area": int(mask.sum()),
                "segmentation": encode(mask),
            }
        )
    return found


def read_ids(path: Path) -> np.ndarray:
    """(H, W) instance numbers of a PNG.

    Raises:
        InputError: There is none, or it has colours.
    """
    if not path.is_file():
        raise InputError(f"there is no {path}, expected a PNG with the numbers of the nuclei")
    ids = np.array(Image.open(path))
    if ids.ndim != 2:
        raise InputError(
            f"{path} has {ids.shape[2]} channels, expected one with the nuclei's numbers"
        )
    return ids


def convert(folder: Path, names: list[str], prefix: str = "") -> dict:
    """COCO annotations of the images ``names``, whose file names get ``prefix``."""
    images, annotations = [], []
    for number, name in enumerate(names, start=1):
        ids = read_ids(folder / "instances" / name)
        height, width = ids.shape
        images.append({"id": number, "file_name": prefix + name, "width": width, "height": height})
        for found in instances(ids):
            annotations.append({"id": len(annotations) + 1, "image_id": number, **found})
    categories = [{"id": 1, "name": "nucleus"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_masks(folder: Path, names: list[str], out: Path) -> None:
    """Images ``names`` as ``out/images``, and as ``out/masks`` where nuclei are 255."""
    for name in names:
        for kind in ("images", "masks"):
            (out / kind).mkdir(parents=True, exist_ok=True)
        png = io.BytesIO()
        Image.fromarray(np.uint8(255) * (read_ids(folder / "instances" / name) > 0)).save(
            png, "PNG"
        )
        atomic_write(out / "masks" / name, png.getvalue())
        atomic_write(out / "images" / name, (folder / "images" / name).read_bytes())


def main() -> None:
    """Convert both splits."""
    args = parse_args()
    out = args.out or args.folder
    splits = args.folder / "splits.json"
    if not splits.is_file():
        raise InputError(f"there is no {splits}, expected the file names of train and val")
    if args.masks:
        for split, names in json.loads(splits.read_text()).items():
            write_masks(args.folder, names, args.masks / split)
            print(f"{split}: {len(names)} images and masks")
        return
    # An absolute file name wins over the folder of the annotations, where that is another one.
    prefix = f"{(args.folder / 'images').resolve()}/" if args.out else ""
    out.mkdir(parents=True, exist_ok=True)
    for split, names in json.loads(splits.read_text()).items():
        data = convert(args.folder, names, prefix)
        atomic_write(out / f"instances_{split}.json", json.dumps(data).encode())
        print(f"{split}: {len(names)} images, {len(data['annotations'])} nuclei")


if __name__ == "__main__":
    run_tool(main)
