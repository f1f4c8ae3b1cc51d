"""Find named things in an image, in the browser. docs/predict.md explains it.

    python app.py [--weights FILE | --model naclip]     then open the address that it prints

Without --weights the shipped model is used, which knows drawings of things. Only this machine can open the page, unless
--host says else.
"""
import html
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from data.files import JPEG, essential, read_file
from data.folds import hidden_marks
from model.clip.errors import WeightsError
from util.config import ROOT
from util.predict.inputs import TRAINING_FREE, split_names
from util.predict.segmenter import Segmenter
from util.runtime.errors import Parser, UserError, run_main

MOST_MB = 20                # of an upload
MOST_PIXELS = 24_000_000    # of an image: those of most cameras
KEPT = 3600                 # s that uploads and results are kept
WAITING = 16                # requests that may wait; the next is turned away
EXAMPLES = {    # scenes that no training has met: names to look for, the last one of which is not there
    "docs/examples/1.png": "cat, horse, onion, bomb, umbrella",
    "docs/examples/2.png": "turtle, tram, wine glass, detective, dog",
    "docs/examples/3.png": "elephant, megaphone, floppy disk, love letter, pizza"}


def page(segmenter: Segmenter, folder: Path):
    """Build the page, a gradio.Interface. Uploads and results lie in ``folder``."""
    import gradio as gr

    def segment(path: str | None, words: str, threshold: float):
        try:
            require_small(path)
            result = segmenter(path, split_names([words]), threshold=threshold)
        except (UserError, WeightsError) as error:
            raise gr.Error(html.escape(str(error).replace(str(path), "the image")), print_exception=False) from None
        for note in hidden_marks(result.names):
            gr.Warning(html.escape(note))
        place = Path(tempfile.mkdtemp(dir=folder))
        overlay, mask, about = (place / name for name in ("overlay.png", "mask.png", "masks.json"))
        overlay.write_bytes(result.overlay_png())
        mask.write_bytes(result.mask_png())
        about.write_text(json.dumps(result.json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        rows = [[name, "yes" if result.found[k] else "no", f"{result.scores[k]:.2f}", f"{100 * result.shares[k]:.1f} %"]
                for k, name in enumerate(result.names)]
        return str(overlay), str(mask), rows, str(about)

    image = gr.Image(type="filepath", sources=["upload", "clipboard"], label="Image")
    # The file as it came: Segmenter reads it as predict.py does, and says what is wrong with it.
    image.preprocess = lambda upload: upload and upload.path
    return gr.Interface(
        segment,
        [image, gr.Textbox(label="Names, with commas between them", placeholder="dog, traffic light"),
         gr.Slider(0, 1, 0.5, label="Threshold: names with a lower score are not found")],
        [gr.Image(label="Found", type="filepath"), gr.DownloadButton("Mask (PNG)"),
         gr.Dataframe(headers=["name", "found", "score", "share of the image"], datatype="str", label="Legend"),
         gr.DownloadButton("Scores, boxes and masks (JSON)")],
        title="Segment by name", description="\n\n".join(f"Note: {note}." for note in segmenter.notes),
        examples=examples(folder), cache_examples=False, flagging_mode="never", submit_btn="Segment",
        api_name="segment", analytics_enabled=False, delete_cache=(KEPT, KEPT))


def require_small(path: str | None) -> None:
    """Raise UserError for no image, and for one that is too large to be decoded here, by its header alone."""
    data, width, height = read_file(path, "give another image") if path else JPEG, 0, 0
    with suppress(Exception), Image.open(io.BytesIO(essential(data))) as image:     # Pillow raises many kinds
        width, height = image.size
    if not width and not data.startswith(JPEG):
        return      # the reader, which opens it likewise, says what is wrong with it
    if not 0 < width * height <= MOST_PIXELS:
        raise UserError(f"{width} x {height} px: give an image that can be read and has at most {MOST_PIXELS:,} pixels")


def examples(folder: Path) -> list[list[str]]:
    """Copy the pictures of EXAMPLES to where the page may read them: file, names to look for and threshold, each."""
    return [[shutil.copy(ROOT / file, folder), names, 0.5] for file, names in EXAMPLES.items()]


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--weights", metavar="FILE", help="a checkpoint; the shipped one knows drawings only")
    parser.add_argument("--model", choices=TRAINING_FREE, help="no checkpoint: CLIP alone, without training")
    parser.add_argument("--clip", metavar="FILE", help="CLIP's weights (weights/ViT-B-16.pt)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets the network in")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="default: 7860")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))     # so that the folder is removed
    with tempfile.TemporaryDirectory(prefix="esda-page-") as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder, "HF_HUB_OFFLINE": "1"}
        if not find_spec("gradio"):
            parser.error("the page needs gradio: pip install -r requirements-page.txt")
        segmenter = Segmenter.load(given.weights, model=given.model, clip=given.clip, device=given.device)
        blocks = page(segmenter, Path(folder)).queue(max_size=WAITING, default_concurrency_limit=1)
        try:
            _, address, _ = blocks.launch(server_name=given.host, server_port=given.port, prevent_thread_lock=True,
                                          quiet=True, share=False, max_file_size=MOST_MB << 20, footer_links=[],
                                          enable_monitoring=False, ssr_mode=False)
        except OSError as error:
            parser.error(f"{given.host}, port {given.port}: {error}; choose another with --port or --host")
        print(f"{address} (Ctrl-C ends it)", flush=True)
        signal.pause()


if __name__ == "__main__":
    run_main(main)
