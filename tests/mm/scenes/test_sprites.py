"""Where cut-outs and photographs come from, without Debian's package."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from statescan.mm import InputError
from statescan.mm.scenes import sprites
from statescan.mm.scenes.sprites import (
    BACKGROUNDS,
    STAMPS,
    folder_sprites,
    read_backgrounds,
    read_sprite,
    split_sprites,
    stamp_sprites,
    stamps,
)

APT = """#!/bin/sh
touch {counter}/$$
[ "$*" = "download tuxpaint-stamps-default" ] || exit 1
touch tuxpaint-stamps-default_1_all.deb
"""
DPKG = """#!/bin/sh
[ "$1 $2" = "-x tuxpaint-stamps-default_1_all.deb" ] || exit 1
mkdir -p $3/usr/share/tuxpaint/stamps/animals/birds
touch $3/usr/share/tuxpaint/stamps/animals/birds/owl.png
"""


@pytest.fixture
def programs(monkeypatch, tmp_path):
    """Writes programs that alone are on the PATH, beside the shell's own."""
    monkeypatch.setattr(sprites, "INSTALLED", Path("/usr/share/tuxpaint/stamps"))
    monkeypatch.setattr(Path, "is_dir", lambda self: self != sprites.INSTALLED and self.exists())
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/bin")

    def write(**texts: str) -> None:
        for name, text in texts.items():
            (folder / name.replace("_", "-")).write_text(text)
            (folder / name.replace("_", "-")).chmod(0o755)

    return write


def test_the_package_is_downloaded_once_and_appears_whole(programs, tmp_path):
    (tmp_path / "calls").mkdir()
    programs(apt_get=APT.format(counter=tmp_path / "calls"), dpkg=DPKG)
    for _ in range(2):
        assert stamps(tmp_path / "work" / "stamps") == tmp_path / "work" / "stamps"
        assert (tmp_path / "work/stamps/animals/birds/owl.png").exists()
    assert len(list((tmp_path / "calls").iterdir())) == 1
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["stamps"]


def test_without_the_package_a_sentence_says_what_to_give(programs, tmp_path):
    programs(apt_get="#!/bin/sh\necho 'E: Unable to locate package' >&2; exit 100\n")
    with pytest.raises(InputError) as caught:
        stamps(tmp_path / "work" / "stamps")
    assert str(caught.value) == (
        "there are no cut-outs, for apt-get download tuxpaint-stamps-default failed (E: Unable to "
        "locate package): install that package or give --sprites FOLDER, with a subfolder of RGBA "
        "PNGs for each category"
    )
    assert list((tmp_path / "work").iterdir()) == []


def test_a_machine_without_apt_gets_the_same_sentence(programs, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"No such file .*'apt-get'\): install that package or"):
        stamps(tmp_path / "work" / "stamps")


def test_an_installed_package_is_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(sprites, "INSTALLED", tmp_path)
    assert stamps(tmp_path / "unused") == tmp_path


def test_drawings_and_mirror_images_are_left_out(tmp_path):
    for name in ("birds/owl", "birds/cartoon/tux", "mammals/apes/chimp", "birds/duck_mirror"):
        path = tmp_path / "animals" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = {name: [p.stem for p in paths] for name, paths in stamp_sprites(tmp_path).items()}
    assert found == {name: [] for name in STAMPS} | {"bird": ["owl"], "mammal": ["chimp"]}


def test_each_subfolder_is_a_category(tmp_path):
    for name in ("b/one.png", "a/deep/two.png", "empty/text.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    found = folder_sprites(tmp_path)
    assert {name: [p.name for p in paths] for name, paths in found.items()} == {
        "a": ["two.png"],
        "b": ["one.png"],
    }


def test_a_folder_without_cut_outs_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--sprites .* has no cut-outs, expected a subfolder"):
        folder_sprites(tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_training_and_validation_share_nothing(seed):
    names = [*("lion", "lion-2", "lion_3", "owl", "duck", "dog", "cat", "cow"), *"abcdefgh"]
    paths = [Path(f"{name}.png") for name in names]
    split = split_sprites({"animal": paths}, seed)
    train, val = (set(split[name]["animal"]) for name in ("train", "val"))
    assert train | val == set(paths)
    assert not train & val
    assert len(val) == 4
    lions = set(paths[:3])
    assert lions <= train or lions <= val
    assert split == split_sprites({"animal": paths}, seed)


def test_too_few_cut_outs_are_refused():
    with pytest.raises(InputError, match=r"category 'x' has 1 cut-outs of different names"):
        split_sprites({"x": [Path("one.png")]}, 0)


def test_a_cut_out_is_trimmed(tmp_path):
    pixels = np.zeros((10, 12, 4), np.uint8)
    pixels[2:7, 3:5] = 255
    pixels[8, 8] = (255, 255, 255, 100)  # too faint
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_sprite(tmp_path / "a.png").size == (2, 5)


@pytest.mark.parametrize(
    ("content", "message"), [(b"no picture", "cannot be read"), (None, "has no opaque pixel")]
)
def test_bad_cut_outs_are_named(tmp_path, content, message):
    if content is None:
        Image.new("RGBA", (4, 4)).save(tmp_path / "a.png")
    else:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=f"cut-out .*a.png {message}"):
        read_sprite(tmp_path / "a.png")


def test_photographs_come_with_scikit_image():
    assert not set(BACKGROUNDS["train"]) & set(BACKGROUNDS["val"])
    for split, names in BACKGROUNDS.items():
        images = read_backgrounds(split)
        assert len(images) == len(names)
        assert all(image.mode == "RGB" and min(image.size) >= 250 for image in images)


def test_without_scikit_image_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sprites, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"scikit-image: pip install statescan\[demo\]"):
        read_backgrounds("train")
