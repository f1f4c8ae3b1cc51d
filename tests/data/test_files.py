"""Images, masks and lists as they are found on disks: odd but right ones are read, wrong ones are named."""
import codecs
import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from data.files import orientation, overlap, read_image, read_list, read_mask, read_pair, write_lists
from data.folds import Classes
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


def with_thumbnail(picture: np.ndarray) -> bytes:
    """A JPEG with a whole small JPEG inside its EXIF segment, as cameras write it."""
    small = jpeg(picture[::4, ::4])
    exif = b"Exif\0\0MM" + struct.pack(">HI", 42, 8)
    exif += struct.pack(">H HHIHH I", 1, 0x0112, 3, 1, 1, 0, 26)                    # one entry: upright; next directory
    exif += struct.pack(">H HHIHH HHII HHII I", 3, 0x0103, 3, 1, 6, 0,              # the thumbnail is a JPEG,
                        0x0201, 4, 1, 68, 0x0202, 4, 1, len(small), 0) + small      # where it starts, how long it is
    whole = jpeg(picture)
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + whole[2:]


def grey_png(mask: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits a pixel, as optimisers write a mask of few classes."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    unpacked = np.unpackbits(mask[..., None], axis=-1)[..., 8 - bits:].reshape(len(mask), -1)
    rows = np.packbits(unpacked, axis=1)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", mask.shape[1], len(mask), bits, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))) + chunk(b"IEND", b""))


def save(path, data: bytes):
    path.write_bytes(data)
    return path


def save_mask(path, mask: np.ndarray):
    Image.fromarray(mask).save(path)
    return path


def complaint(read, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        read(*arguments)
    return str(caught.value)


def assert_alike(image: np.ndarray, picture: np.ndarray) -> None:
    assert image.shape == picture.shape and image.dtype == np.uint8
    assert np.abs(image.astype(int) - picture).mean() < 3


# Images

def as_grey(picture: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(picture).convert("L"))] * 3, axis=-1)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


JPEGS = {
    "colour": jpeg, "grey": lambda p: jpeg(p, "L"), "cmyk": lambda p: jpeg(p, "CMYK"),
    "progressive": lambda p: jpeg(p, progressive=True), "thumbnail": with_thumbnail,
    **{f"exif {turn}": lambda p, turn=turn: jpeg(p, exif=turned(turn)) for turn in (3, 6, 8)},  # which is ignored
    **{f"trailing {end[:4]}": lambda p, end=end: jpeg(p) + end for end in (bytes(99), b"some phone", b"\xff\xd9")}}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_of_any_kind_comes_as_rgb_as_it_is_stored(tmp_path, picture, kind):
    data = JPEGS[kind](picture)
    assert_alike(read_image(save(tmp_path / "a.jpg", data)), as_grey(picture) if kind == "grey" else picture)
    assert kind != "thumbnail" or Image.open(io.BytesIO(data)).getexif().get_ifd(ExifTags.IFD.IFD1), "it is there"


def test_png_image_is_read(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), picture)


@pytest.mark.parametrize("kind", ["colour", "progressive", "thumbnail", "grey"])
def test_a_jpeg_cut_anywhere_is_named(tmp_path, picture, kind):
    whole = JPEGS[kind](picture)
    for length in [*range(1, len(whole), 197), len(whole) - 2, len(whole) - 1]:
        path = save(tmp_path / "cut.jpg", whole[:length])
        assert str(path) in complaint(read_image, path), f"{length} of {len(whole)} bytes"


def test_a_cut_jpeg_padded_with_zeros_is_named(tmp_path, picture):
    """As a download leaves it that reserved its space beforehand."""
    whole = jpeg(picture)
    path = save(tmp_path / "cut.jpg", whole[:len(whole) // 2] + bytes(len(whole) // 2))
    assert str(path) in complaint(read_image, path)


@pytest.mark.parametrize("read", [read_image, lambda path: read_mask(path, 20)])
@pytest.mark.parametrize("data", [b"", b"not an image at all", b"<html>404</html>"])
def test_what_is_no_image_and_no_mask_is_named(tmp_path, read, data):
    path = save(tmp_path / "odd.jpg", data)
    assert str(path) in complaint(read, path)


def test_a_missing_image_is_named(tmp_path):
    message = complaint(read_image, tmp_path / "nowhere.jpg")
    assert "nowhere.jpg" in message and "data.root" in message


# Masks

def test_a_grey_mask_is_read_as_it_is(tmp_path):
    mask = np.array([[0, 1, 20], [255, 7, 0]], np.uint8)
    read = read_mask(save_mask(tmp_path / "mask.png", mask), 20)
    assert read.dtype == np.uint8 and np.array_equal(read, mask)


COLOURS = [value for i in range(256) for value in (i * 37 % 256, 100 * (i % 3), 255 - i)]


@pytest.mark.parametrize("bits, options", [(8, {}), (8, {"transparency": 0}), (1, {}), (2, {}), (4, {})])
def test_a_palette_mask_is_read_by_its_indices(tmp_path, bits, options):
    """As VOC, labelme and the published SegmentationClassAug have them."""
    indices = (np.arange(15).reshape(3, 5) % 2 ** bits).astype(np.uint8)
    mask = Image.fromarray(indices)
    mask.putpalette(COLOURS[:3 * 2 ** bits])
    mask.save(tmp_path / "palette.png", bits=bits, **options)
    assert (tmp_path / "palette.png").read_bytes()[24] == bits
    assert np.array_equal(read_mask(tmp_path / "palette.png", 20), indices)
    most = indices.max()
    assert most == 1 or f"class {most}" in complaint(read_mask, tmp_path / "palette.png", int(most) - 1)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_grey_mask_of_fewer_bits_is_read_by_its_values(tmp_path, bits):
    """Decoders stretch values of 1, 2 and 4 bits to 8, so that class 1 would become 255, 85 or 17."""
    mask = np.array([[0, 1], [2 ** bits - 1, 0]], np.uint8)
    assert np.array_equal(read_mask(save(tmp_path / "small.png", grey_png(mask, bits)), 200), mask)


def as_file(mode: str, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ones((3, 4), np.uint8)).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("data, named", [
    (as_file("RGB", "PNG"), "a colour picture"), (as_file("RGBA", "PNG"), "a colour picture"),
    (as_file("LA", "PNG"), "a colour picture"), (as_file("I;16", "PNG"), "16 bits"),
    *((as_file("L", kind), "not a PNG") for kind in ("JPEG", "WEBP", "BMP", "GIF", "TIFF")),
    (b"\x89PNG\r\n\x1a\n", "not a PNG")])
def test_a_mask_whose_values_are_no_class_ids_is_refused_with_a_way_on(tmp_path, data, named):
    message = complaint(read_mask, save(tmp_path / "odd.png", data), 20)
    assert named in message and "grey or palette PNG of 8 bits" in message and "docs/data.md" in message


def sized_png(width: int, height: int, kind: int) -> bytes:
    data = bytearray(as_file("L", "PNG"))
    data[16:26] = struct.pack(">IIBB", width, height, 8, kind)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize("read, kind", [(read_image, 0), (lambda path: read_mask(path, 20), 0),
                                        (lambda path: read_mask(path, 20), 3)], ids=["image", "grey", "palette"])
def test_an_image_beyond_2_to_the_30_pixels_is_refused_before_it_is_decoded(tmp_path, read, kind):
    assert "2^30" in complaint(read, save(tmp_path / "vast.png", sized_png(40_000, 40_000, kind)))


@pytest.mark.parametrize("values", [np.full((3, 4), 4000, np.uint16), np.full((3, 4, 3), 0.5, np.float32)],
                         ids=["16 bits", "float"])
def test_an_image_of_another_depth_is_refused(tmp_path, values):
    """Nobody knows which of its values is white."""
    path = save(tmp_path / "deep.tiff", cv2.imencode(".tiff", values)[1].tobytes())
    assert "8 bits a channel" in complaint(read_image, path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")],
                         ids=["pipe", "folder", "device"])
@pytest.mark.parametrize("read", [read_image, lambda path: read_mask(path, 20), read_list, Classes.read])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, make, read):
    make(tmp_path / "odd")
    assert "odd: " in complaint(read, tmp_path / "odd")


def test_a_file_of_no_sensible_size_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "vast", "wb") as file:
        file.truncate(1 << 40)
    for read in (read_image, read_list, Classes.read):
        assert "1,099,511,627,776 bytes" in complaint(read, tmp_path / "vast")


@pytest.mark.parametrize("wrong", [21, 254])
def test_a_class_out_of_range_is_named(tmp_path, wrong):
    path = save_mask(tmp_path / "mask.png", np.array([[0, 20, wrong, 255]], np.uint8))
    message = complaint(read_mask, path, 20)
    assert str(path) in message and str(wrong) in message and "20" in message


def test_a_cut_mask_is_named(tmp_path):
    mask = np.random.default_rng(0).integers(0, 21, (80, 80)).astype(np.uint8)
    whole = save_mask(tmp_path / "mask.png", mask).read_bytes()
    for length in range(1, len(whole), len(whole) // 7):
        path = save(tmp_path / "cut.png", whole[:length])
        assert str(path) in complaint(read_mask, path, 20)


def test_image_and_mask_of_different_sizes_are_named_with_both_sizes(tmp_path, picture):
    save(tmp_path / "a.jpg", jpeg(picture))
    save_mask(tmp_path / "a.png", np.zeros((HEIGHT - 1, WIDTH), np.uint8))
    message = complaint(read_pair, tmp_path, ("a.jpg", "a.png"), 20)
    assert str(tmp_path / "a.png") in message and "a.jpg" in message and "90x59" in message and "90x60" in message


def test_a_mask_that_was_drawn_on_the_turned_picture_is_told_why_it_does_not_fit(tmp_path, picture):
    save(tmp_path / "a.jpg", jpeg(picture, exif=turned(6)))
    assert orientation(tmp_path / "a.jpg") == 6
    save_mask(tmp_path / "a.png", np.zeros((WIDTH, HEIGHT), np.uint8))
    message = complaint(read_pair, tmp_path, ("a.jpg", "a.png"), 20)
    assert "EXIF rotation" in message and "-auto-orient" in message
    save(tmp_path / "a.jpg", jpeg(picture))
    assert "EXIF" not in complaint(read_pair, tmp_path, ("a.jpg", "a.png"), 20)


def test_a_pair_that_fits_is_read(tmp_path, picture):
    save(tmp_path / "a.jpg", jpeg(picture))
    save_mask(tmp_path / "a.png", np.full((HEIGHT, WIDTH), 4, np.uint8))
    image, mask = read_pair(tmp_path, ("a.jpg", "a.png"), 20)
    assert_alike(image, picture)
    assert (mask == 4).all()


# Lists

def test_a_list_is_pairs_and_blank_lines_do_not_matter(tmp_path):
    path = save(tmp_path / "list.txt", b"i/a.jpg m/a.png\r\n\n  i/b.jpg\tm/b.png  \n\n")
    assert read_list(path) == [("i/a.jpg", "m/a.png"), ("i/b.jpg", "m/b.png")]


PAIRS = [("i/\u00e9 a.jpg", "m/\u00e9 a.png"), ("i/b.jpg", "m/b.png")]


@pytest.mark.parametrize("separator", [" ", "\t", " \t "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "  \n\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-marked", "latin-1", "cp1252"])
def test_a_list_is_read_as_any_system_writes_it(tmp_path, encoding, end, separator):
    """With spaces in names, which a tab separates, or else the suffixes do."""
    text = "".join(f"{image}{separator}{mask}{end}" for image, mask in PAIRS)
    data = codecs.BOM_UTF16_BE + text.encode("utf-16-be") if encoding.endswith("marked") else text.encode(encoding)
    assert read_list(save(tmp_path / "list.txt", data)) == PAIRS


def test_windows_separators_are_read(tmp_path):
    assert read_list(save(tmp_path / "list.txt", b"i\\b.jpg m\\b.png\r\n")) == [PAIRS[1]]


def test_lists_are_written_so_that_they_are_read_again(tmp_path):
    write_lists(tmp_path, {"train": PAIRS, "val": PAIRS[1:]})
    assert read_list(tmp_path / "lists/train.txt") == PAIRS
    assert (tmp_path / "lists/val.txt").read_bytes() == b"i/b.jpg m/b.png\n", "as the published lists are"


@pytest.mark.parametrize("repeated", [b"a.jpg a.png", b"./a.jpg  c.png", b"c.jpg\tx/../a.png"])
def test_an_image_or_a_mask_that_is_listed_twice_is_named_with_both_lines(tmp_path, repeated):
    path = save(tmp_path / "list.txt", b"\na.jpg a.png\nb.jpg b.png\n" + repeated)
    assert f"{path}:4: " in complaint(read_list, path) and " is in line 2, too" in complaint(read_list, path)


def test_what_two_lists_share_is_said():
    ours, others = [("a.jpg", "a.png"), ("b.jpg", "b.png")], [("c.jpg", "c.png")]
    assert overlap(ours, others) == ""
    assert "1 images" in overlap(ours, [*others, ("./a.jpg", "d.png")])
    assert "1 masks" in overlap(ours, [*others, ("d.jpg", "a.png")])


@pytest.mark.parametrize("line", [b"only.jpg", b"three fields here.png", b"a.jpg a.png 5", b"a.jpg b.jpg a.png"])
def test_a_line_that_is_no_pair_is_named_by_number(tmp_path, line):
    path = save(tmp_path / "list.txt", b"a.jpg a.png\n\n" + line + b"\n")
    assert f"{path}:3:" in complaint(read_list, path)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xff\xfe\x00binary\n", b"\x89PNG\r\n\x1a\n\0\0", b"a\0b c\n"])
def test_what_is_no_list_is_named(tmp_path, data):
    path = save(tmp_path / "list.txt", data)
    assert str(path) in complaint(read_list, path)


def test_a_missing_list_is_named_with_a_remedy(tmp_path):
    message = complaint(read_list, tmp_path / "nowhere.txt")
    assert "nowhere.txt" in message and "docs/data.md" in message
