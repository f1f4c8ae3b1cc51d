"""python app.py in a real browser: an image and names in, a mask out, and nothing else of the machine."""
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predicting import checkpoint_of
from runs import ENVIRONMENT, complains, in_process

from util.config import ROOT
from util.requirements import problems

TOLD = 120  # s to wait for what the page should show, or for its end
# The server as a user starts it, but for a list of the other machines that it connects to.
START = """
import runpy, sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = args[1][0] if event == "socket.connect" and isinstance(args[1], tuple) else args[0]
        if isinstance(host, str) and host not in ("127.0.0.1", "localhost", "::1"):
            print("to another machine:", host, file=sys.stderr, flush=True)
sys.addaudithook(watch)
runpy.run_path("app.py", run_name="__main__")
"""
missing = problems(ROOT / "requirements-page.txt")
needs_gradio = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
browsers = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
lacking = [what for what, there in (("selenium", find_spec("selenium")), ("Chromium", any(browsers)),
                                    ("chromedriver", shutil.which("chromedriver"))) if not there]
needs_browser = pytest.mark.skipif(bool(missing or lacking), reason=f"not installed: {', '.join(missing + lacking)}")


@pytest.fixture(scope="module")
def weights(tiny_clip, tmp_path_factory) -> Path:
    """A checkpoint that finds everything everywhere, more or less."""
    return checkpoint_of("plus", tiny_clip, tmp_path_factory.mktemp("weights") / "best.pt", foreground=2.0)


@pytest.fixture(scope="module")
def address(weights, tmp_path_factory):
    """Of a page that is served while the tests of this file run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("own")
    own, said = folder / "tmp", folder / "stderr"
    own.mkdir()
    # What a user's environment may hold has no say.
    environment = {**ENVIRONMENT, "TMPDIR": str(own), "GRADIO_ALLOWED_PATHS": "/", "GRADIO_SHARE": "true"}
    process = subprocess.Popen([sys.executable, "-c", START, "--weights", str(weights), "--port", str(port)], cwd=ROOT,
                               env=environment, stdout=subprocess.PIPE, stderr=said.open("w"), text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith(f"http://127.0.0.1:{port}/"), said.read_text()
        yield line.split()[0]
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=TOLD)
        assert process.returncode == 143 and not list(own.glob("esda-page-*"))
        assert "to another machine" not in said.read_text(), said.read_text()
        # Gradio's own, of the request for a file that nobody uploaded, is the only one.
        assert said.read_text().count("Traceback") == said.read_text().count("InvalidPathError:"), said.read_text()
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    folder = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, browsers))
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
                 "disable-background-networking", "disable-component-update", "no-proxy-server",
                 "window-size=1200,900", f"user-data-dir={folder / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.downloads = folder / "downloads"
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    """Of another shape than the network's input."""
    file = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 3), np.uint8)).save(file)
    return file


def find(browser, selector: str, wanted=lambda element: True):
    """The first element of that selector that is as wanted, waited for."""
    from selenium.common.exceptions import StaleElementReferenceException
    until = time.monotonic() + TOLD
    while time.monotonic() < until:
        for element in browser.find_elements("css selector", selector):
            try:
                if wanted(element):
                    return element
            except StaleElementReferenceException:
                pass
        time.sleep(0.1)
    raise AssertionError(f"nothing like {selector}: {browser.find_element('tag name', 'body').text}")


def ask(browser, address: str, picture: Path | None, names: str) -> None:
    """A fresh page, filled in and sent."""
    browser.get(address)
    find(browser, "#segment")
    if picture:
        find(browser, "#image input[type=file]").send_keys(str(picture))
        find(browser, "#image img")
    find(browser, "#names textarea, #names input").send_keys(names)
    find(browser, "#segment").click()


def downloaded(browser, button: str, name: str) -> Path:
    find(browser, button, lambda b: b.is_enabled() and b.get_attribute("disabled") is None).click()
    until = time.monotonic() + TOLD
    while not (browser.downloads / name).is_file() and time.monotonic() < until:
        time.sleep(0.1)
    return browser.downloads / name


@pytest.mark.slow
@needs_browser
def test_an_image_and_names_give_a_mask_to_see_and_to_keep(browser, address, picture, weights):
    from util.predict.segmenter import Segmenter
    ask(browser, address, picture, "star, red key")
    shown = find(browser, "#overlay img", lambda img: "overlay" in (img.get_attribute("src") or ""))
    assert browser.execute_script("return arguments[0].naturalWidth", shown) >= 900
    expected = Segmenter.load(weights, device="cpu")(picture, ["star", "red key"])
    legend = find(browser, "#legend", lambda table: "red key" in table.text).text
    assert f"{expected.scores[1]:.2f}" in legend and f"{100 * expected.shares[1]:.1f} %" in legend
    with Image.open(downloaded(browser, "#mask", "mask.png")) as mask:
        assert mask.mode == "P" and np.array_equal(np.array(mask), expected.labels)
    assert expected.labels.any()
    assert json.loads(downloaded(browser, "#json", "masks.json").read_text())["names"] == expected.json()["names"]
    hosts = {re.sub(r"^(https?://[^/:]+).*", r"\1", message["params"]["request"]["url"])
             for entry in browser.get_log("performance")
             if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"}
    assert {host for host in hosts if host.startswith("http")} == {"http://127.0.0.1"}

    before = shown.get_attribute("src")
    find(browser, "#zoom input").click()
    find(browser, "#segment").click()
    find(browser, "#overlay img", lambda img: (img.get_attribute("src") or before) != before)
    about = json.loads(downloaded(browser, "#json", "masks (1).json").read_text())  # the browser's second of that name
    zoomed = Segmenter.load(weights, device="cpu")(picture, ["star", "red key"], zoom=True).json()
    assert about["model"]["zoom"] and about["names"] == zoomed["names"]


@pytest.mark.slow
@needs_browser
def test_an_example_works_at_once(browser, address):
    browser.get(address)
    find(browser, "tr.tr-body").click()
    find(browser, "#overlay img", lambda img: "overlay" in (img.get_attribute("src") or ""))


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("names, told", [("", "no names"), ("star, STAR", "is the same as name 1"),
                                         ("word " * 99, "is too long"), ("<b>, star", "")])
def test_what_is_wrong_is_said_on_the_page(names, told, browser, address, picture):
    ask(browser, address, picture, names)
    if told:
        toast = find(browser, ".toast-body", lambda element: told in element.text)
        assert "Traceback" not in toast.text
    else:  # what looks like HTML is a name like others
        find(browser, "#legend", lambda table: "<b>" in table.text)


@pytest.mark.slow
@needs_browser
def test_a_file_that_is_no_image_is_said_on_the_page(browser, address, tmp_path):
    ask(browser, address, None, "star")
    find(browser, ".toast-body", lambda element: "no image" in element.text)
    (tmp_path / "text.png").write_text("no image")
    browser.get(address)
    find(browser, "#image input[type=file]").send_keys(str(tmp_path / "text.png"))
    find(browser, "#names textarea, #names input").send_keys("star")
    time.sleep(1)
    find(browser, "#segment").click()
    toast = find(browser, ".toast-body", lambda element: "not an image that Pillow reads" in element.text)
    assert "the image:" in toast.text and "/" not in toast.text


@pytest.mark.slow
@needs_gradio
def test_no_file_of_the_machine_is_served_and_uploads_are_limited(address, weights, tmp_path):
    import httpx
    with httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
        assert client.get("/").status_code == 200
        for file in ("/etc/passwd", weights, ROOT / "app.py", "README.md", "../../../../etc/passwd", "~/.bashrc"):
            for way in ("/gradio_api/file=", "/file="):
                assert client.get(f"{way}{file}").status_code in (403, 404), file
        big = client.post("/gradio_api/upload", files={"files": ("big.png", bytes(21 << 20))})
        assert big.status_code == 413, big.text
        assert client.post("/gradio_api/upload", files={"files": ("ok.png", bytes(1 << 20))}).status_code == 200
        # nor is another file taken for an upload
        event = client.post("/gradio_api/call/segment", json={"data": [
            {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, "star", 0.5, False]})
        if event.status_code == 200:
            assert "event: error" in client.get(f"/gradio_api/call/segment/{event.json()['event_id']}").text
    with pytest.raises(ConnectionRefusedError):  # another address of this machine
        socket.create_connection(("127.0.0.2", int(address.rstrip("/").rsplit(":", 1)[1])), timeout=5)


@needs_gradio
def test_wrong_arguments_are_one_line(weights):
    complains(in_process("app.py", "--port", "0"), "--port 0")
    complains(in_process("app.py", "--weights", "no.pt"), "no.pt: no such file")
    complains(in_process("app.py", "--weights", weights, "--model", "naclip"), "one of the two")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        complains(in_process("app.py", "--weights", weights, "--port", taken.getsockname()[1]), "cannot be served")


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("util.requirements.problems", lambda file: ["gradio>=6,<7"])
    complains(in_process("app.py"), "needs gradio>=6,<7", "pip install -r", "requirements-page.txt")
