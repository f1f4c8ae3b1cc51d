"""Images, masks and lists as they are found on disks: odd but right ones are read, wrong ones are named."""
import io
import os
import re
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from data.files import orientation, read_image, read_list, read_mask, read_mask_and_palette, read_pair, write_lists
from util.predict.inputs import as_image
from util.runtime.errors import UserError

HEIGHT, WIDTH = 60, 90


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth picture whose quarters differ, so that JPEG keeps it and a rotation would show."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 255 / WIDTH, y * 255 / HEIGHT, np.full_like(x, 60)], axis=-1).astype(np.uint8)


def jpeg(picture: np.ndarray, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def grey_png(mask: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 1, 2, 4 or 8 bits a pixel, as optimisers write a mask of few classes."""
    unpacked = np.unpackbits(mask[..., None], axis=-1)[..., 8 - bits:].reshape(len(mask), -1)
    rows = np.packbits(unpacked, axis=1)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", mask.shape[1], len(mask), bits, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))) + chunk(b"IEND", b""))


def save(path, data: bytes):
    path.write_bytes(data)
    return path


def save_png(path, pixels: np.ndarray):
    Image.fromarray(pixels).save(path)
    return path


def complaint(read, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        read(*arguments)
    return str(caught.value)


def assert_alike(image: np.ndarray, picture: np.ndarray) -> None:
    assert image.shape == picture.shape and image.dtype == np.uint8
    assert np.abs(image.astype(int) - picture).mean() < 3


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# Images

FILM = b"\0\0\0\x18ftypmp42 \xff\xda behind the end of a motion photo"
JPEGS = {
    "colour": jpeg, "grey": lambda p: jpeg(p, "L"), "cmyk": lambda p: jpeg(p, "CMYK"),
    "progressive": lambda p: jpeg(p, progressive=True), "no end": lambda p: jpeg(p)[:-2],
    "restarts": lambda p: jpeg(p, restart_marker_rows=1),
    "filled": lambda p: jpeg(p, progressive=True)[:-2] + b"\xff\xff\xff\xd9",
    **{f"trailing {end[:4]}": lambda p, end=end: jpeg(p) + end for end in (bytes(99), FILM, b"\xff\xd9")}}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_of_any_kind_comes_as_rgb(tmp_path, picture, kind):
    expected = Image.fromarray(picture).convert("L").convert("RGB") if kind == "grey" else picture
    assert_alike(read_image(save(tmp_path / "a.jpg", JPEGS[kind](picture))), np.asarray(expected))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn, upright", list(enumerate([
    lambda p: p, lambda p: p[:, ::-1], lambda p: p[::-1, ::-1], lambda p: p[::-1], lambda p: p.swapaxes(0, 1),
    lambda p: np.rot90(p, -1), lambda p: np.rot90(p.swapaxes(0, 1), 2), np.rot90], start=1)))
def test_an_image_is_read_as_it_is_stored_or_upright(tmp_path, picture, kind, turn, upright):
    """The decoders turn a TIFF, whether they are asked to or not."""
    Image.fromarray(picture).save(tmp_path / "a", kind, exif=turned(turn), quality=95)
    assert_alike(read_image(tmp_path / "a"), picture)
    assert_alike(read_image(tmp_path / "a", upright=True), upright(picture))


@pytest.mark.parametrize("mode, kind", [*((mode, "PNG") for mode in ("RGBA", "LA", "P")), ("RGBA", "WEBP"),
                                        ("RGBA", "TIFF")])
def test_what_is_transparent_lies_on_white_as_people_see_it(tmp_path, mode, kind):
    """Left: opaque grey 100; in the middle a half (a palette has none); right: nothing, whatever colour it hides."""
    grey, alpha = np.tile(np.uint8([100, 100, 7]), (3, 1)), np.tile(np.uint8([255, 128, 0]), (3, 1))
    image = Image.fromarray(np.dstack([grey, grey, grey, alpha]))
    image = image.quantize(4, Image.Quantize.FASTOCTREE) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "a", kind, **{"lossless": True, "exact": True} if kind == "WEBP" else {})
    assert np.abs(read_image(tmp_path / "a")[0, :, 0] - np.array([100, 177, 255])).max() <= 2
    assert np.array_equal(as_image(Image.open(tmp_path / "a")), read_image(tmp_path / "a"))
    assert np.abs(read_image(tmp_path / "a", alpha=True)[0, :, 3] - np.array([255, 128, 0])).max() <= 2


def test_odd_parts_of_a_file_change_no_pixel(tmp_path, picture):
    """A key of transparency in 2 bits, a spoilt text, an alpha that nobody uses, an orientation that is no number."""
    grey = np.array([[0, 1, 2, 3]], np.uint8)
    keyed = bytearray(grey_png(grey, 2))
    spoilt = chunk(b"tEXt", b"a\0b")[:-1] + b"!"
    keyed[33:33] = chunk(b"tRNS", b"\0\1") + spoilt
    assert read_image(save(tmp_path / "a.png", bytes(keyed)))[0, :, 0].tolist() == [0, 255, 170, 255]
    mask = bytearray(palette_png(grey, 8))
    mask[33:33] = spoilt
    assert read_mask_and_palette(save(tmp_path / "mask.png", bytes(mask)), 3)[1] == bytes(COLOURS)
    Image.fromarray(grey).convert("P").save(tmp_path / "ramp.png")
    assert read_mask_and_palette(tmp_path / "ramp.png", 3)[1] == b"", "such a palette says no more than a grey PNG"
    assert read_mask(tmp_path / "mask.png", 3).tolist() == grey.tolist()
    header = struct.pack("<IiiHHIIiiII4I", 56, 2, -1, 1, 32, 3, 8, 0, 0, 0, 0, 0xff0000, 0xff00, 0xff, 0xff000000)
    bitmap = b"BM" + struct.pack("<IHHI", 78, 0, 0, 70) + header + bytes([1, 2, 3, 0, 4, 5, 6, 0])
    assert read_image(save(tmp_path / "a.bmp", bitmap)).tolist() == [[[3, 2, 1], [6, 5, 4]]]
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\2\0\0\0\2" + b"6\0\0\0" + bytes(4)
    path = save(tmp_path / "a.jpg", jpeg(picture, exif=exif))
    assert orientation(path) == 1 and np.array_equal(read_image(path, upright=True), read_image(path))


@pytest.mark.parametrize("kind", ["colour", "grey", "cmyk", "progressive", "restarts"])
def test_a_jpeg_cut_anywhere_is_named(tmp_path, picture, kind):
    """A download may also leave it padded with zeros to its length, and a tool may have put an end behind it."""
    whole = JPEGS[kind](picture)
    restarts = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", whole)] if kind == "restarts" else []
    for length in [*range(1, len(whole) - 20, 97), *restarts]:
        for end in (b"", bytes(len(whole) - length), b"\xff\xd9", bytes(300) + b"\xff\xd9"):
            path = save(tmp_path / "cut.jpg", whole[:length] + end)
            assert str(path) in complaint(read_image, path), f"{length} of {len(whole)} bytes and {end[:4]}"


def some_mask(path):
    return read_mask(path, 20)


@pytest.mark.parametrize("read", [read_image, some_mask])
@pytest.mark.parametrize("data", [
    b"", b"not an image at all", None, *(cv2.imencode(".tiff", values)[1].tobytes() for values in (
        np.full((3, 4), 4000, np.uint16), np.full((3, 4, 3), 0.5, np.float32),
        np.full((3, 4), -5, np.int8))),  # of which nobody knows what is white
    *(cv2.imencode(".png", np.full(shape, 900, np.uint16))[1].tobytes() for shape in ((3, 4), (3, 4, 3), (3, 4, 4))),
    bytes(4) + b"ftypheic", "pipe"],
    ids="empty text missing tiff16 float signed grey16 colour16 alpha16 heic pipe".split())
def test_what_is_no_image_and_no_mask_is_named(tmp_path, read, data):
    path = tmp_path / "odd.jpg"
    if data == "pipe":
        os.mkfifo(path)
    elif data is not None:
        save(path, data)
    assert str(path) in complaint(read, path)


# Masks

COLOURS = [value for i in range(256) for value in (i * 37 % 256, 100 * (i % 3), 255 - i)]


def palette_png(indices: np.ndarray, bits: int, **options) -> bytes:
    """As VOC, labelme and the published SegmentationClassAug have them."""
    buffer, mask = io.BytesIO(), Image.fromarray(indices)
    mask.putpalette(COLOURS[:3 * 2 ** bits])
    mask.save(buffer, "PNG", bits=bits, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("png", [grey_png, palette_png, lambda mask, bits: palette_png(mask, bits, transparency=0)])
def test_a_mask_is_read_by_its_values_or_its_palettes_indices(tmp_path, png, bits):
    """Decoders stretch values of 1, 2 and 4 bits to 8, so that class 1 would become 255, 85 or 17."""
    mask = (np.arange(15).reshape(3, 5) % 2 ** bits).astype(np.uint8)
    mask[0, 0] = 255 if bits == 8 else 0
    path = save(tmp_path / "mask.png", png(mask, bits))
    most = int(mask[mask < 255].max())
    assert path.read_bytes()[24] == bits
    assert read_mask(path, most).dtype == np.uint8 and np.array_equal(read_mask(path, most), mask)
    assert f"class {most} is out of range" in complaint(read_mask, path, most - 1)


def as_file(mode: str, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ones((3, 4), np.uint8)).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("data", [
    *(as_file(mode, "PNG") for mode in ("RGB", "RGBA", "LA", "I;16")),
    *(as_file("L", kind) for kind in ("JPEG", "WEBP", "BMP", "GIF", "TIFF")), b"\x89PNG\r\n\x1a\n"])
def test_a_mask_whose_values_are_no_class_ids_is_refused_with_a_way_on(tmp_path, data):
    message = complaint(read_mask, save(tmp_path / "odd.png", data), 20)
    assert "grey or palette PNG of 8 bits" in message and "docs/data.md" in message


@pytest.mark.parametrize("read, kind", [(read_image, 0), (some_mask, 0), (some_mask, 3)])
def test_an_image_beyond_2_to_the_30_pixels_and_a_cut_png_are_refused(tmp_path, read, kind):
    data = bytearray(as_file("L", "PNG"))
    data[16:26] = struct.pack(">IIBB", 40_000, 40_000, 8, kind)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert "2^30" in complaint(read, save(tmp_path / "vast.png", bytes(data)))
    whole = save_png(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 21, (80, 80)).astype(np.uint8))
    cut = save(tmp_path / "cut.png", whole.read_bytes()[:-500])
    assert str(cut) in complaint(read, cut)


def test_a_pair_is_read_and_different_sizes_are_named(tmp_path, picture):
    save(tmp_path / "a.jpg", jpeg(picture, exif=turned(6)))
    save_png(tmp_path / "a.png", np.full((HEIGHT, WIDTH), 4, np.uint8))
    image, mask = read_pair(tmp_path, ("a.jpg", "a.png"), 20)
    assert_alike(image, picture)
    assert (mask == 4).all()
    for height, width, turned_mask in ((HEIGHT - 1, WIDTH, False), (WIDTH, HEIGHT, True)):
        save_png(tmp_path / "a.png", np.zeros((height, width), np.uint8))
        message = complaint(read_pair, tmp_path, ("a.jpg", "a.png"), 20)
        assert f"{tmp_path / 'a.png'}: the mask is {width}x{height} but a.jpg is 90x60" in message
        assert ("EXIF rotation" in message) == turned_mask


# Lists

PAIRS = [("i/\u00e9 a.jpg", "m/\u00e9 a.png"), ("i/b.jpg", "m/b.png")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "  \n\n"])
def test_a_list_is_read_and_written_with_spaces_in_names(tmp_path, end):
    text = "{} \t {}{end}{} {}{end}".format(*PAIRS[0], *PAIRS[1], end=end)
    assert read_list(save(tmp_path / "list.txt", text.encode())) == PAIRS
    assert read_list(save(tmp_path / "list.txt", text.replace("/", "\\").encode())) == PAIRS, "Windows' separators"
    write_lists(tmp_path, {"train": PAIRS, "val": PAIRS[1:]})
    assert read_list(tmp_path / "lists/train.txt") == PAIRS
    assert (tmp_path / "lists/val.txt").read_bytes() == b"i/b.jpg m/b.png\n", "as the published lists are"
    write_lists(tmp_path, {"val": PAIRS})
    assert (tmp_path / "lists/val.txt.old1").read_bytes() == b"i/b.jpg m/b.png\n", "what was there is not lost"


@pytest.mark.parametrize("line, named", [
    *((line, "of line 2 again") for line in (b"a.jpg a.png", b"./a.jpg  c.png", b"c.jpg\tx/../a.png")),
    *((line, "should be an image and a mask") for line in (b"x.jpg", b"three fields x.png", b"x\0.jpg x.png"))])
def test_a_line_that_is_no_pair_or_lists_something_again_is_named(tmp_path, line, named):
    path = save(tmp_path / "list.txt", b"\na.jpg a.png\nb.jpg b.png\n" + line)
    assert f"{path}:4: " in complaint(read_list, path) and named in complaint(read_list, path)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xe9.jpg \xe9.png", None])
def test_what_is_no_list_is_named_with_a_remedy(tmp_path, data):
    path = tmp_path / "list.txt"
    if data is not None:
        save(path, data)
    assert str(path) in complaint(read_list, path) and "docs/data.md" in complaint(read_list, path)
