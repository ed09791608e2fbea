"""Composed scenes against a literal loop over pixels, and what stills and videos promise."""

import numpy as np
import pytest
from PIL import Image

from statescan.mm.scenes.pasting import MIN_VISIBLE, Placed, look, paste, still, trim, video
from statescan.mm.scenes.sprites import OPAQUE

SIZE = (72, 56)


def cutout(color: tuple[int, int, int], width: int, height: int) -> Image.Image:
    """An ellipse that fills its image."""
    y, x = np.mgrid[:height, :width]
    inside = ((x + 0.5) / width * 2 - 1) ** 2 + ((y + 0.5) / height * 2 - 1) ** 2 <= 1.15
    pixels = np.zeros((height, width, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = color, 255 * inside
    return Image.fromarray(pixels)


PALETTE = [
    [cutout((250, 20, 20), 60, 40), cutout((200, 0, 90), 30, 50)],
    [cutout((0, 0, 255), 40, 40)],
]
BACKGROUNDS = [
    Image.fromarray(np.random.RandomState(i).randint(0, 256, (90, 120, 3), dtype=np.uint8))
    for i in range(2)
]


def draw_slowly(background, placed):
    """The image and the number of the owner of each pixel, pixel by pixel."""
    image, owner = background.astype(int), np.full(background.shape[:2], -1)
    for number, one in enumerate(placed):
        for row in range(one.pixels.shape[0]):
            for column in range(one.pixels.shape[1]):
                y, x = one.top + row, one.left + column
                if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
                    *color, alpha = one.pixels[row, column].tolist()
                    for c in range(3):
                        exact = (color[c] * alpha + image[y, x, c] * (255 - alpha)) / 255
                        image[y, x, c] = int(exact + 0.5)
                    if alpha >= OPAQUE:
                        owner[y, x] = number
    return image, owner


@pytest.mark.parametrize("seed", range(4))
def test_pasting_is_what_a_loop_over_pixels_does(seed):
    rng = np.random.RandomState(seed)
    background = rng.randint(0, 256, (20, 24, 3), dtype=np.uint8)
    placed = [
        Placed(
            category=i % 2,
            track=i + 1,
            pixels=rng.randint(0, 256, (*rng.randint(1, 14, 2), 4), dtype=np.uint8),
            left=rng.randint(-12, 24),
            top=rng.randint(-12, 20),
        )
        for i in range(6)
    ]
    placed.append(placed[0]._replace(left=-40))  # all of it outside
    scene = paste(background, placed)
    image, owner = draw_slowly(background, placed)
    assert np.array_equal(scene.image, image)
    for number, thing in enumerate(scene.things):
        assert np.array_equal(thing.mask, owner == number)
        whole = (placed[number].pixels[..., 3] >= OPAQUE).sum()
        assert thing.visible == pytest.approx((owner == number).sum() / whole)
    categories = np.array([one.category for one in placed] + [-1])
    assert np.array_equal(scene.labels(), categories[owner] + 1)


def test_the_same_seed_gives_the_same_bits():
    one, same, other = (still((0, 0, n), PALETTE, BACKGROUNDS, SIZE, (1, 4)) for n in (1, 1, 2))
    assert np.array_equal(one.image, same.image)
    assert np.array_equal(one.labels(), same.labels())
    assert not np.array_equal(one.image, other.image)


def test_all_things_of_stills_are_visible_enough_and_span_their_boxes():
    seen = set()
    for number in range(30):
        scene = still((0, 1, number), PALETTE, BACKGROUNDS, SIZE, (1, 5))
        assert scene.image.shape == (SIZE[1], SIZE[0], 3)
        assert 1 <= len(scene.things) <= 5
        assert sum(thing.mask.astype(int) for thing in scene.things).max() == 1
        for thing in scene.things:
            assert thing.visible >= MIN_VISIBLE
            opaque = thing.placed.pixels[..., 3] >= OPAQUE
            for edge in (opaque[0], opaque[-1], opaque[:, 0], opaque[:, -1]):
                assert edge.any()
            seen.add((thing.placed.category, thing.visible < 1))
    assert seen == {(category, hidden) for category in (0, 1) for hidden in (False, True)}


def test_a_hidden_thing_does_not_count():
    square = np.full((4, 4, 4), 255, np.uint8)
    below, above = Placed(0, 1, square, 2, 2), Placed(1, 2, square, 3, 2)
    hidden, shown = look([below, above], (10, 10))
    assert (hidden.visible, shown.visible) == (0.25, 1.0)
    assert (hidden.counts, shown.counts) == (False, True)


def test_targets_of_a_video_keep_their_cut_outs():
    frames = list(video((3,), PALETTE, BACKGROUNDS, (96, 72), frames=30, targets=5))
    again = list(video((3,), PALETTE, BACKGROUNDS, (96, 72), frames=30, targets=5))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(frames, again, strict=True))
    categories = [[thing.placed.category for thing in scene.things] for scene in frames]
    assert all(row == categories[0] for row in categories)
    assert all([t.placed.track for t in scene.things] == [1, 2, 3, 4, 5] for scene in frames)
    first, last = (np.array([t.placed.box() for t in frames[i].things]) for i in (0, -1))
    assert np.abs(last - first)[:, :2].max() > 10
    for scene in frames:
        for thing in scene.things:
            rows, columns = np.nonzero(thing.mask)
            left, top, right, bottom = thing.placed.box()
            assert ((rows >= top) & (rows < bottom)).all()
            assert ((columns >= left) & (columns < right)).all()


def test_a_camera_moves_the_background():
    still_, moved = (
        list(video((4,), PALETTE, BACKGROUNDS, (96, 72), frames=12, targets=1, camera=camera))
        for camera in (0.0, 0.3)
    )
    bare = np.ones((72, 96), bool)
    for frame in (still_[0], still_[5]):
        left, top, right, bottom = (max(edge, 0) for edge in frame.things[0].placed.box())
        bare[top:bottom, left:right] = False
    assert np.array_equal(still_[0].image[bare], still_[5].image[bare])
    assert (moved[0].image != moved[5].image).mean() > 0.5


def test_trimming_keeps_what_is_opaque():
    pixels = np.zeros((5, 6, 4), np.uint8)
    pixels[1:3, 2:5, 3] = 200
    part, left, top = trim(pixels)
    assert (part.shape, left, top) == ((2, 3, 4), 2, 1)
    part, left, top = trim(np.zeros((2, 3, 4), np.uint8))
    assert (part.shape, left, top) == ((2, 3, 4), 0, 0)
    assert (part[..., 3] == 255).all()
