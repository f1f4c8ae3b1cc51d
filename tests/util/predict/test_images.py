"""Images of every kind come in upright, as 8-bit RGB; what is none is told in one line."""
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from data.files import read_image
from util.predict.images import MOST_PIXELS, as_image, find_images, read
from util.runtime.errors import UserError

GRADIENT = np.stack([*np.meshgrid(np.linspace(0, 255, 24), np.linspace(0, 255, 16)), np.full((16, 24), 90.0)],
                    axis=-1).astype(np.uint8)  # (16, 24, 3): red to the right, green downwards
PICTURE = Image.fromarray(GRADIENT)


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims a size."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + \
        chunk(b"IDAT", b"x") + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode, suffix, off", [
    ("RGB", "png", 0), ("RGB", "bmp", 0), ("RGB", "webp", 30), ("L", "png", 1), ("P", "gif", 40), ("1", "png", 255),
    ("CMYK", "tif", 1), ("CMYK", "jpg", 12), ("YCbCr", "jpg", 12), ("LA", "png", 1), ("RGBA", "png", 0)])
def test_modes_and_formats(tmp_path, mode, suffix, off):
    PICTURE.convert(mode).save(tmp_path / f"a.{suffix}")
    image = read(tmp_path / f"a.{suffix}")
    expected = np.asarray(PICTURE.convert("L" if mode in ("L", "LA", "1") else "RGB").convert("RGB"))
    assert image.shape == (16, 24, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).max() <= off


def test_sixteen_bits_become_eight(tmp_path):
    grey = np.asarray(PICTURE.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey.png")
    cv2.imwrite(str(tmp_path / "colour.png"), GRADIENT[:, :, ::-1].astype(np.uint16) * 257)
    assert np.array_equal(read(tmp_path / "grey.png")[..., 1], grey)
    assert np.array_equal(read(tmp_path / "colour.png"), GRADIENT)


def test_transparent_pixels_lie_on_white(tmp_path):
    see_through = PICTURE.copy()
    see_through.putalpha(Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 12, 1).repeat(16, 0)))
    see_through.save(tmp_path / "a.png")
    image = read(tmp_path / "a.png")
    assert (image[:, :12] == 255).all() and np.array_equal(image[:, 12:], GRADIENT[:, 12:])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_turns_a_file_upright_and_leaves_a_pillow_image(tmp_path, orientation, suffix):
    """What Pillow's own exif_transpose gives is upright; a JPEG's pixels are those of the evaluator's decoder."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    PICTURE.save(tmp_path / f"a.{suffix}", exif=exif)
    image = read(tmp_path / f"a.{suffix}")
    assert image.shape[:2] == ((16, 24) if orientation < 5 else (24, 16))
    corner = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}[orientation]  # where black lies
    found = image[0 if corner[0] == "t" else -1, 0 if corner[1] == "l" else -1]
    assert found[0] < 20 and found[1] < 20
    with Image.open(tmp_path / f"a.{suffix}") as opened:
        assert as_image(opened).shape[:2] == (16, 24), "masks lie over the pixels that the user has"


def test_a_jpeg_has_the_pixels_that_the_evaluator_sees(tmp_path):
    PICTURE.save(tmp_path / "a.jpg")
    assert np.array_equal(read(tmp_path / "a.jpg"), read_image(tmp_path / "a.jpg"))


def test_arrays_and_pillow_images():
    for source in (GRADIENT, PICTURE, np.dstack([GRADIENT, np.full((16, 24), 255, np.uint8)])):
        assert np.array_equal(as_image(source), GRADIENT)
    assert as_image(GRADIENT[..., 0]).shape == (16, 24, 3)
    for wrong in (GRADIENT / 255.0, GRADIENT.transpose(2, 0, 1), GRADIENT[None], None, "no such file.png"):
        with pytest.raises(UserError):
            as_image(wrong)


@pytest.mark.parametrize("data, said", [
    (b"not a picture", "not an image that Pillow reads"), (b"", "empty"), (png_header(1, 1), "1 x 1 px"),
    (png_header(20_000, 20_000), f"{MOST_PIXELS:,} pixels"), (png_header(12_000, 12_000), "12000 x 12000 px"),
    (png_header(24, 16), "damaged"), (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not an image")])
def test_what_is_no_image_is_told_in_one_line(tmp_path, data, said):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.png")
    assert str(tmp_path / "a.png") in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_files_of_several_formats(tmp_path):
    for suffix in ("jpg", "png", "gif", "webp", "tif", "bmp"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(
            tmp_path / f"a.{suffix}")
        data = (tmp_path / f"a.{suffix}").read_bytes()
        (tmp_path / f"a.{suffix}").write_bytes(data[:len(data) // 2])
        with pytest.raises(UserError, match=f"a.{suffix}"):
            read(tmp_path / f"a.{suffix}")
    Image.fromarray(np.zeros((16, 16), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(UserError, match="floating-point"):
        read(tmp_path / "f.tif")
    Image.fromarray(np.full((16, 16), 255, np.int32)).save(tmp_path / "i.tif")  # white of 8 bits, or black of 16?
    with pytest.raises(UserError, match="255 to 255 in 32 bits"):
        read(tmp_path / "i.tif")


def test_paths_folders_and_globs(tmp_path):
    names = ["b.png", "a.jpg", "notes.txt", ".hidden.png", "a.overlay.png", "a.mask.png", "a.mask-1.png", "sub/c.PNG",
             "odd[1].png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PICTURE.save(tmp_path / name, "PNG")

    def found(*arguments):
        return [str(path.relative_to(tmp_path)) for path in find_images([str(tmp_path / a) for a in arguments])]
    assert found("") == ["a.jpg", "b.png", "odd[1].png"]
    assert found("*.png") == ["b.png", "odd[1].png"] and found("**/*") == ["a.jpg", "b.png", "odd[1].png", "sub/c.PNG"]
    assert found("odd[1].png", "b.png", "../" + tmp_path.name + "/b.png") == ["odd[1].png", "b.png"], "each once"
    assert found("notes.txt") == ["notes.txt"], "what is named is tried, whatever its suffix"
    (tmp_path / "lost.png").symlink_to("nowhere.png")
    assert found("l*") == ["lost.png"], "it is named and skipped, as a damaged one"
    (tmp_path / "empty").mkdir()
    for argument, said in (("empty", "without images"), ("*.nef", "no image matches"), ("c.png", "no such file"),
                           ("a\0b", "a")):
        with pytest.raises(UserError, match=said):
            find_images([str(tmp_path / argument)])
    with pytest.raises(UserError, match="before --names"):
        find_images([])
