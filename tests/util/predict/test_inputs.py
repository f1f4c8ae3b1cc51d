"""Images and names as users give them."""
import cv2
import numpy as np
import pytest
from PIL import Image

from data.files import read_image
from data.folds import hidden_marks
from util.predict.inputs import as_image, checked_names, find_images, split_names
from util.runtime.errors import UserError

GRADIENT = np.stack([*np.meshgrid(np.linspace(0, 255, 24), np.linspace(0, 255, 16)), np.full((16, 24), 90.0)],
                    axis=-1).astype(np.uint8)  # (16, 24, 3): red to the right, green downwards
PICTURE = Image.fromarray(GRADIENT)


def test_arrays_pillow_images_and_files(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    for source in (GRADIENT, PICTURE, PICTURE.convert("RGBA"), tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(as_image(source), GRADIENT)
    PICTURE.save(tmp_path / "a.jpg")
    assert np.array_equal(as_image(tmp_path / "a.jpg"), read_image(tmp_path / "a.jpg")), "the pixels of training"
    exif = Image.Exif()
    exif[0x0112] = 6
    PICTURE.save(tmp_path / "a.jpg", exif=exif)     # a file is turned upright, a Pillow image is not
    assert np.abs(as_image(tmp_path / "a.jpg").astype(int) - np.rot90(GRADIENT, -1)).mean() < 10
    assert as_image(Image.open(tmp_path / "a.jpg")).shape == GRADIENT.shape


@pytest.mark.parametrize("wrong", [
    GRADIENT / 255.0, GRADIENT.transpose(2, 0, 1), GRADIENT[..., 0], GRADIENT[:0], np.vstack([GRADIENT] * 2),
    PICTURE.convert("F"), PICTURE.convert("I"), "none.png", "deep.png"], ids=lambda x: type(x).__name__)
def test_what_is_no_8_bit_image_is_refused(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("deep.png", GRADIENT.astype(np.uint16) * 257)
    monkeypatch.setattr("util.predict.inputs.MOST_PIXELS", 16 * 24)
    with pytest.raises(UserError, match=wrong if isinstance(wrong, str) else "the image"):
        as_image(wrong)


def test_paths_folders_and_globs(tmp_path, capsys):
    for name in ("b.png", "a.jpg", "notes.txt", "a.overlay.png", "a.mask-1.png", "sub/c.PNG", "odd[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PICTURE.save(tmp_path / name, "PNG")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")

    def found(*arguments):
        return [str(path.relative_to(tmp_path)) for path in find_images([str(tmp_path / a) for a in arguments])]
    assert found("") == ["a.jpg", "b.png", "odd[1].png"]
    assert f"{tmp_path}/loop.jpg, {tmp_path}/notes.txt\n" in capsys.readouterr().err
    assert found("*.png") == ["b.png", "odd[1].png"] and found("**/*") == ["a.jpg", "b.png", "odd[1].png", "sub/c.PNG"]
    assert found("odd[1].png", "b.png", "../" + tmp_path.name + "/b.png") == ["odd[1].png", "b.png"], "each once"
    with pytest.raises(UserError, match="no such image"):
        found("*.nef")


def test_names_as_they_are_typed():
    assert split_names(["star,key；red house", " , ", "a，b、c;d\ne\u2028f"]) == ["star", "key", "red house", *"abcdef"]
    assert split_names(["星".encode().decode("ascii", "surrogateescape")]) == ["星"], "from a terminal in ASCII"
    assert len(hidden_marks(["st\u200bar", "st\xadar", "\u2066star"])) == 3 and not hidden_marks(["é", "st\ufeffar"])


@pytest.mark.parametrize("names, others", [
    ([], []), (["star", " "], []), (["star", "key", "Star "], []), (["star"], ["STAR"]),
    ([str(k) for k in range(200)], [f"o{k}" for k in range(55)])])
def test_names_that_a_mask_or_clip_cannot_tell_apart(names, others):
    assert checked_names(["star", " traffic  light "], "sky, sea") == (["star", "traffic light"], ["sky, sea"])
    with pytest.raises(UserError):
        checked_names(names, others)
