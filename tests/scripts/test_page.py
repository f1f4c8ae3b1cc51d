"""python app.py, asked by Gradio's own client: an image and names in, a mask out, and nothing else of the machine."""
import json
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from predicting import checkpoint_of, write_scene
from runs import ENVIRONMENT, complains, in_process

from util.config import ROOT
from util.predict.segmenter import Segmenter

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find_spec("gradio"), reason="needs requirements-page.txt")]


@pytest.fixture(scope="module")
def weights(tiny_clip, tmp_path_factory) -> Path:
    """A checkpoint that finds everything everywhere, more or less."""
    return checkpoint_of("plus", tiny_clip, tmp_path_factory.mktemp("weights") / "best.pt", foreground=2.0)


@pytest.fixture(scope="module")
def client(weights, tmp_path_factory):
    """A client of a page that is served while the tests of this file run."""
    from gradio_client import Client
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = tmp_path_factory.mktemp("own")
    process = subprocess.Popen([sys.executable, "app.py", "--weights", str(weights), "--port", str(port)], cwd=ROOT,
                               env={**ENVIRONMENT, "TMPDIR": str(own)}, stdout=subprocess.PIPE,
                               stderr=(own / "said").open("w"), text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith(f"http://127.0.0.1:{port}/"), (own / "said").read_text()
        yield Client(line.split()[0], verbose=False, download_files=str(own / "downloads"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143 and not list(own.glob("esda-page-*"))
    finally:
        process.kill()
        process.communicate()


def test_an_image_and_names_give_what_the_segmenter_finds(client, weights, tmp_path):
    from gradio_client import handle_file
    picture = write_scene(tmp_path / "picture.png", 0, (140, 90))
    overlay, mask, legend, about = client.predict(handle_file(picture), "star； r\u200bed", 0.5, api_name="/segment")
    expected = Segmenter.load(weights, device="cpu")(picture, ["star", "r\u200bed"])
    assert expected.labels.any() and Path(overlay).read_bytes() == expected.overlay_png()
    assert [row[2] for row in legend["data"]] == [f"{score:.2f}" for score in expected.scores]
    assert Path(mask).read_bytes() == expected.mask_png()
    assert json.loads(Path(about).read_text())["names"] == expected.json()["names"]


@pytest.mark.parametrize("file, names, told", [
    ("scene.png", "star, STAR", "given twice"), ("text.png", "star", "the image: "),
    ("scene.png", "word " * 99, "CLIP reads at most"), ("large.png", "star", "6000 x 5000 px")])
def test_what_is_wrong_is_said_on_the_page(file, names, told, client, tmp_path):
    from gradio_client import exceptions, handle_file
    write_scene(tmp_path / "scene.png")
    (tmp_path / "text.png").write_text("no image")
    Image.new("L", (6000, 5000)).save(tmp_path / "large.png")
    with pytest.raises(exceptions.AppError, match=told) as caught:
        client.predict(handle_file(tmp_path / file), names, 0.5, api_name="/segment")
    assert " /" not in f" {caught.value}", "a path of the server's"


def test_no_file_of_the_machine_is_served_and_uploads_are_limited(client, weights):
    import httpx
    with httpx.Client(base_url=client.src, trust_env=False, timeout=60) as plain:
        for file in ("/etc/passwd", weights, ROOT / "app.py", "README.md", "../../../../etc/passwd"):
            assert plain.get(f"/gradio_api/file={file}").status_code in (403, 404), file
        for size, status in ((21 << 20, 413), (1 << 20, 200)):
            assert plain.post("/gradio_api/upload", files={"files": ("a.png", bytes(size))}).status_code == status


def test_a_port_that_is_taken_is_one_line(weights):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        complains(in_process("app.py", "--weights", weights, "--port", taken.getsockname()[1]), "another with --port")
