"""Data of detectors and segmenters that are empty, tiny, damaged or mislabelled."""

import io

import numpy as np
import pytest
from PIL import Image
from small_recipes import CLASSES, SIZE, detector, segmenter, write_coco, write_maps
from torch import nn

from statescan.mm import InputError, train
from statescan.mm.data.checks import check_categories, check_heads
from statescan.mm.data.loading import LoadImage, ends_early, load_safely

BOX = [5, 5, 30, 20, 3]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False:UserWarning:mmseg"),
    pytest.mark.filterwarnings("ignore:The draw is False:UserWarning"),
    pytest.mark.filterwarnings(  # pycocotools' own, when it reads masks under NumPy 2
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    ),
]


def assert_trained(runner, steps: int) -> None:
    """Every loss is finite, and so are the weights that its gradients have moved."""
    losses, _ = runner.message_hub.get_scalar("train/loss").data
    assert len(losses) == steps
    assert np.isfinite(losses).all()
    assert all(p.isfinite().all() for p in runner.model.parameters())


def test_a_detector_trains_on_images_without_objects_and_boxes_of_one_pixel(tmp_path):
    boxes = [[], [[10, 10, 1, 1, 3]], [[63, 63, 1, 1, 8]]]
    config = detector(write_coco(tmp_path / "data", boxes), tmp_path / "work")
    config.train_dataloader.batch_size = 1  # so that a batch has no object at all
    runner = train(config)
    assert_trained(runner, len(boxes))
    data = runner.train_dataloader.dataset
    assert [len(data.get_data_info(i)["instances"]) for i in range(len(data))] == [*map(len, boxes)]
    assert runner.message_hub.get_scalar("val/coco/bbox_mAP").current() >= 0


def test_a_segmenter_trains_where_nothing_is_known(tmp_path):
    folder = write_maps(tmp_path / "data", 3)
    Image.fromarray(np.full((SIZE, SIZE), 255, np.uint8)).save(folder / "maps/0.png")
    config = segmenter(folder, tmp_path / "work")
    config.train_cfg.max_iters = 6
    config.train_cfg.val_interval = 6
    assert_trained(train(config), 6)


def jpeg(**kwargs) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", **kwargs)
    return buffer.getvalue()


def jpeg_with_thumbnail() -> bytes:
    """A thumbnail is a JPEG file in a segment before the picture, with an end of its own."""
    whole, thumbnail = jpeg(), jpeg(quality=10)
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    return whole[:2] + segment + whole[2:]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg())).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("make", [jpeg, jpeg_with_thumbnail, png], ids=lambda make: make.__name__)
def test_ends_early(make):
    whole = make()
    assert not ends_early(whole)
    assert not ends_early(whole + b"what some cameras append")
    for kept in (0.97, 0.7, 0.3):
        assert ends_early(whole[: int(len(whole) * kept)])


def test_loads_as_mmcv_does(tmp_path):
    from mmcv.transforms import LoadImageFromFile

    for name, data in (("a.jpg", jpeg()), ("b.png", png()), ("c.jpg", jpeg(progressive=True))):
        (tmp_path / name).write_bytes(data)
        sample = {"img_path": str(tmp_path / name), "img_id": 3}
        for options in ({}, {"to_float32": True, "color_type": "grayscale"}):
            ours = LoadImage(**options)(dict(sample))
            theirs = LoadImageFromFile(**options)(dict(sample))
            assert ours.keys() == theirs.keys()
            assert ours["img"].dtype == theirs["img"].dtype
            assert np.array_equal(ours.pop("img"), theirs.pop("img"))
            assert ours == theirs


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty"),
        (jpeg()[:900], "ends early"),
        (png()[:-20], "ends early"),
        (b"<html>not found</html>", "cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n" + b"IEND" * 9, "cannot be decoded"),
    ],
    ids=["empty", "half-jpeg", "half-png", "html", "broken-png"],
)
def test_a_corrupt_image_is_named_or_noted(tmp_path, data, what):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(InputError) as refused:
        LoadImage()({"img_path": str(path)})
    sentence = f"image '{path}' {what}"
    assert str(refused.value) == f"{sentence}: mend or remove it, or train with skip_corrupt=True"
    load = LoadImage(skip_corrupt=True)
    assert load({"img_path": str(path)}) is load({"img_path": str(path)}) is None
    assert load.take_notes() == [sentence] * 2
    assert load.take_notes() == []
    assert not load.notes.exists()


def test_a_missing_image_is_never_skipped(tmp_path):
    with pytest.raises(InputError, match=r"there is no image '.*a.jpg'"):
        LoadImage(skip_corrupt=True)({"img_path": str(tmp_path / "a.jpg")})


def test_where_loading_takes_the_place_of_mmcvs():
    load = {"type": "LoadImageFromFile", "to_float32": True}
    other = {"type": "LoadImageFromFile", "ignore_empty": True}
    labels = {"type": "LoadAnnotations"}
    config = {
        "dataset": {"pipeline": [load, labels, other]},
        "x": [{"test_mode": True, "p": [load]}],
    }
    ours = load_safely(config, skip_corrupt=True, segmentation=False)
    read = {"type": "LoadImage", "to_float32": True}
    assert ours == {
        "dataset": {"pipeline": [{**read, "skip_corrupt": True}, labels, other]},
        "x": [{"test_mode": True, "p": [{**read, "skip_corrupt": False}]}],
    }
    (found,) = load_safely([labels], skip_corrupt=True, segmentation=True)
    assert found == {"type": "LoadLabels", "skip_corrupt": True}


RECIPES = {
    "detector": (detector, lambda folder: write_coco(folder, [[BOX]] * 4), "images/2.jpg"),
    "segmenter": (segmenter, lambda folder: write_maps(folder, 4), "maps/2.png"),
}


@pytest.fixture(params=RECIPES)
def corrupt(request, tmp_path):
    """A recipe that reads, in a data worker, a file which ends early; and that file."""
    recipe, write, name = RECIPES[request.param]
    path = write(tmp_path / "data") / name
    path.write_bytes(path.read_bytes()[:-60])
    config = recipe(tmp_path / "data", tmp_path / "work")
    config.train_dataloader.num_workers = 1
    return config, path


def test_a_corrupt_file_in_an_epoch_is_named(corrupt):
    config, path = corrupt
    with pytest.raises(InputError) as refused:
        train(config)
    assert str(refused.value).startswith(f"image '{path}' ends early: mend or remove it")


def test_corrupt_files_are_skipped_and_counted(corrupt, tmp_path):
    config, path = corrupt
    config.skip_corrupt = True
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    runner = train(config)
    skipped = runner.message_hub.get_info("skipped_images")
    assert skipped >= 1
    sentence = f"skipped {skipped} samples with corrupt files, {skipped} in this training: image"
    (log,) = tmp_path.glob("work/*/*.log")
    assert f"{sentence} '{path}' ends early" in log.read_text()


@pytest.mark.parametrize("corrupt", ["detector"], indirect=True)
def test_a_pipeline_that_a_hook_switches_to_skips_too(corrupt):
    config, _ = corrupt
    config.skip_corrupt = True
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    pipeline = config.train_dataloader.dataset.pipeline
    switch = {"type": "PipelineSwitchHook", "switch_epoch": 0, "switch_pipeline": pipeline}
    config.custom_hooks = [switch]
    assert train(config).message_hub.get_info("skipped_images") >= 1


@pytest.mark.parametrize("corrupt", ["segmenter"], indirect=True)
def test_no_figure_is_of_fewer_images(corrupt):
    config, _ = corrupt
    config.skip_corrupt = True
    with pytest.raises(InputError, match="ends early"):
        train(config)


def test_category_ids(tmp_path):
    path = write_coco(tmp_path, [[BOX], [[1, 1, 9, 9, 7]]]) / "instances.json"
    with pytest.raises(InputError) as refused:
        check_categories(path, CLASSES)
    assert str(refused.value) == (
        f"{path}: annotation 1 has category_id 7, expected one of the file's categories: 3, 8"
    )


def test_classes_are_categories(tmp_path):
    path = write_coco(tmp_path, [[BOX]]) / "instances.json"
    check_categories(path, CLASSES)
    check_categories(path, ["bar"])
    with pytest.raises(InputError, match=r"has no category 'bx', .*: did you mean 'box'\?"):
        check_categories(path, ["bx", "bar"])
    with pytest.raises(InputError, match=r"order box, bar, the dataset its classes .* bar, box"):
        check_categories(path, ["bar", "box"])


def test_a_detectors_data_are_checked_before_training(tmp_path):
    config = detector(write_coco(tmp_path / "a", [[BOX], [[1, 1, 9, 9, 7]]]), tmp_path / "work")
    with pytest.raises(InputError, match="annotation 1 has category_id 7"):
        train(config)


def test_heads_have_the_classes_of_the_data():
    model = nn.Module()
    model.bbox_head = nn.ModuleList([nn.Linear(1, 1)])
    check_heads(model, CLASSES)
    model.bbox_head[0].num_classes = 2
    check_heads(model, CLASSES)
    model.bbox_head[0].num_classes = 80
    with pytest.raises(InputError) as refused:
        check_heads(model, CLASSES)
    assert str(refused.value) == (
        "model.bbox_head.0.num_classes is 80, but the training data have 2 classes: box, bar"
    )


def test_a_label_that_is_no_class(tmp_path):
    folder = write_maps(tmp_path / "data", 2)
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[3, 4] = 7
    Image.fromarray(labels).save(folder / "maps/1.png")
    with pytest.raises(InputError) as refused:
        train(segmenter(folder, tmp_path / "work"))
    assert str(refused.value) == (
        f"label map '{folder}/maps/1.png' has the label 7, expected 0 to 2, or 255 where nothing "
        "is known"
    )
