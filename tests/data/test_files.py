"""Images, masks and lists as they are found on disks: odd but right ones are read, wrong ones are named."""
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from data.files import read_image, read_list, read_mask, read_pair
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

def test_colour_comes_as_rgb(tmp_path, picture):
    assert_alike(read_image(save(tmp_path / "a.jpg", jpeg(picture))), picture)


def test_grey_jpeg_becomes_rgb(tmp_path, picture):
    image = read_image(save(tmp_path / "grey.jpg", jpeg(picture, "L")))
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    assert_alike(image, np.stack([grey] * 3, axis=-1))


def test_cmyk_jpeg_becomes_rgb(tmp_path, picture):
    assert_alike(read_image(save(tmp_path / "cmyk.jpg", jpeg(picture, "CMYK"))), picture)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_rotation_is_ignored(tmp_path, picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_alike(read_image(save(tmp_path / "turned.jpg", jpeg(picture, exif=exif))), picture)


def test_progressive_jpeg_is_read(tmp_path, picture):
    assert_alike(read_image(save(tmp_path / "progressive.jpg", jpeg(picture, progressive=True))), picture)


def test_jpeg_with_a_thumbnail_inside_is_read(tmp_path, picture):
    data = with_thumbnail(picture)
    assert Image.open(io.BytesIO(data)).getexif().get_ifd(ExifTags.IFD.IFD1), "the thumbnail is where EXIF keeps it"
    assert_alike(read_image(save(tmp_path / "thumbnail.jpg", data)), picture)


@pytest.mark.parametrize("trailing", [b"\0" * 100, b"made by some phone", b"\xff\xd9"])
def test_jpeg_with_trailing_bytes_is_read(tmp_path, picture, trailing):
    assert_alike(read_image(save(tmp_path / "trailing.jpg", jpeg(picture) + trailing)), picture)


def test_png_image_is_read(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), picture)


@pytest.mark.parametrize("make", [jpeg, lambda p: jpeg(p, progressive=True), with_thumbnail, lambda p: jpeg(p, "L")],
                         ids=["baseline", "progressive", "thumbnail", "grey"])
def test_a_jpeg_cut_anywhere_is_named(tmp_path, picture, make):
    whole = make(picture)
    for length in [*range(1, len(whole), 97), len(whole) - 2, len(whole) - 1]:
        path = save(tmp_path / "cut.jpg", whole[:length])
        assert str(path) in complaint(read_image, path), f"{length} of {len(whole)} bytes"


def test_a_cut_jpeg_padded_with_zeros_is_named(tmp_path, picture):
    """As a download leaves it that reserved its space beforehand."""
    whole = jpeg(picture)
    path = save(tmp_path / "cut.jpg", whole[:len(whole) // 2] + bytes(len(whole) // 2))
    assert str(path) in complaint(read_image, path)


@pytest.mark.parametrize("data", [b"", b"not an image at all", b"<html>404</html>"])
def test_what_is_no_image_is_named(tmp_path, data):
    path = save(tmp_path / "odd.jpg", data)
    assert str(path) in complaint(read_image, path)


def test_a_missing_image_is_named(tmp_path):
    message = complaint(read_image, tmp_path / "nowhere.jpg")
    assert "nowhere.jpg" in message and "data.root" in message


# Masks

def test_a_grey_mask_is_read_as_it_is(tmp_path):
    mask = np.array([[0, 1, 20], [255, 7, 0]], np.uint8)
    read = read_mask(save_mask(tmp_path / "mask.png", mask), 20)
    assert read.dtype == np.uint8 and np.array_equal(read, mask)


def test_a_palette_mask_is_refused_with_the_reason(tmp_path):
    mask = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).convert("P")
    mask.putpalette([value for i in range(256) for value in (i, 100 * (i % 3), 255 - i)])
    mask.save(tmp_path / "palette.png")
    message = complaint(read_mask, tmp_path / "palette.png", 20)
    assert "palette.png" in message and "palette PNG" in message and "grey" in message


def test_a_16_bit_mask_is_refused(tmp_path):
    path = save_mask(tmp_path / "deep.png", np.ones((3, 4), np.uint16))
    assert "8-bit" in complaint(read_mask, path, 20)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_mask_of_fewer_bits_is_read_right_or_refused(tmp_path, bits):
    """Decoders stretch grey values of 1, 2 and 4 bits to 8, so that class 1 would become 255, 85 or 17."""
    mask = np.array([[0, 1], [1, 0]], np.uint8)
    path = save(tmp_path / "small.png", grey_png(mask, bits))
    try:
        assert np.array_equal(read_mask(path, 200), mask)
    except UserError as error:
        assert "8-bit" in str(error) and str(path) in str(error)


@pytest.mark.parametrize("wrong", [21, 254])
def test_a_class_out_of_range_is_named(tmp_path, wrong):
    path = save_mask(tmp_path / "mask.png", np.array([[0, 20, wrong, 255]], np.uint8))
    message = complaint(read_mask, path, 20)
    assert str(path) in message and str(wrong) in message and "20" in message


@pytest.mark.parametrize("data", [b"", b"not a mask at all"])
def test_what_is_no_mask_is_named(tmp_path, data):
    path = save(tmp_path / "odd.png", data)
    assert str(path) in complaint(read_mask, path, 20)


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


@pytest.mark.parametrize("line", [b"only.jpg", b"three fields here.png"])
def test_a_line_that_is_no_pair_is_named_by_number(tmp_path, line):
    path = save(tmp_path / "list.txt", b"a.jpg a.png\n\n" + line + b"\n")
    assert f"{path}:3:" in complaint(read_list, path)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xff\xfe\x00binary\n"])
def test_what_is_no_list_is_named(tmp_path, data):
    path = save(tmp_path / "list.txt", data)
    assert str(path) in complaint(read_list, path)


def test_a_missing_list_is_named_with_a_remedy(tmp_path):
    message = complaint(read_list, tmp_path / "nowhere.txt")
    assert "nowhere.txt" in message and "docs/data.md" in message
