"""The page: an image and words in, the picture with its legend, a mask and JSON out. The work is Segmenter's."""
import html
import json
import re
import tempfile
from pathlib import Path

import gradio as gr
from PIL import Image

from data.folds import Classes
from data.shapes.scene import scene
from model.clip.errors import WeightsError
from util.predict.names import unfamiliar
from util.predict.segmenter import Segmenter
from util.predict.shipped import SHAPES, is_scene, notes_on
from util.runtime.errors import UserError

MOST_PIXELS = 24_000_000    # of an image: those of most cameras
EXAMPLES = ((23, "star, house"), (35, "umbrella, star, mushroom"), (31, "circle, key"))  # (index of a scene, names)
EXAMPLES_SEED = 2025


def page(segmenter: Segmenter, folder: Path, shipped: bool, kept: int) -> gr.Blocks:
    """folder: where files of the page lie; shipped: whether the model knows Shapes-5i alone; kept: s files stay."""
    def segment(path: str | None, words: str, threshold: float, zoom: bool = False):
        try:
            result = segmenter(_checked(path), _names(words), threshold=threshold, zoom=zoom)
        except (UserError, WeightsError) as error:
            raise gr.Error(html.escape(str(error).replace(str(path), "the image")), print_exception=False) from None
        notes = [f"{name}: CLIP has learned from English captions; an English word may find more"
                 for name in unfamiliar(result.names)]
        if shipped:
            notes += notes_on(result.names)
            if not is_scene(result.image.shape):
                notes.append("This model has met no images but 128 x 128 px scenes of Shapes-5i. What it finds in "
                             "others means nothing.")
        place = Path(tempfile.mkdtemp(dir=folder))
        overlay, mask, about = (place / name for name in ("overlay.png", "mask.png", "masks.json"))
        overlay.write_bytes(result.overlay_png())
        mask.write_bytes(result.mask_png())
        about.write_text(json.dumps(result.json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        rows = [[name, "yes" if result.found[k] else "no", f"{result.scores[k]:.2f}", f"{100 * result.shares[k]:.1f} %"]
                for k, name in enumerate(result.names)]
        return (str(overlay), rows, gr.update(value=str(mask), interactive=True),
                gr.update(value=str(about), interactive=True), gr.update(value="\n".join(notes), visible=bool(notes)))

    usual = round(segmenter.threshold, 3)
    with gr.Blocks(title="ESDA", analytics_enabled=False, delete_cache=(kept, kept)) as blocks:
        gr.Markdown("# Segment by name\nGive an image and the names of what to look for.")
        with gr.Row():
            with gr.Column():
                image = gr.Image(type="filepath", sources=["upload", "clipboard"], label="Image", elem_id="image")
                # The file as it came: Segmenter reads it as predict.py does, and says what is wrong with it.
                image.preprocess = lambda upload: upload and upload.path
                names = gr.Textbox(label="Names, with commas between them", placeholder="star, traffic light",
                                   elem_id="names")
                threshold = gr.Slider(0, 1, usual, step=0.001, elem_id="threshold",
                                      label="Threshold: names with a lower score are not found")
                zoom = gr.Checkbox(label="Zoom: look again at small regions, enlarged", elem_id="zoom")
                button = gr.Button("Segment", variant="primary", elem_id="segment")
            with gr.Column():
                overlay = gr.Image(label="Found", type="filepath", interactive=False, buttons=["fullscreen"],
                                   elem_id="overlay")
                table = gr.Dataframe(headers=["name", "found", "score", "share of the image"], datatype="str",
                                     interactive=False, label="Legend", elem_id="legend")
                notes = gr.Textbox(label="Note", visible=False, elem_id="notes")
                with gr.Row():
                    mask = gr.DownloadButton("Mask (PNG)", interactive=False, elem_id="mask")
                    about = gr.DownloadButton("Scores, boxes and masks (JSON)", interactive=False, elem_id="json")
        inputs, outputs = [image, names, threshold, zoom], [overlay, table, mask, about, notes]
        gr.on([button.click, names.submit], segment, inputs, outputs)
        gr.Examples(_examples(folder), [image, names], outputs, lambda path, words: segment(path, words,
                    usual), run_on_click=True, cache_examples=False, label="Examples of Shapes-5i")
    return blocks


def _names(words: str) -> list[str]:
    """What stands between commas and line ends; ``checked_names`` looks at it."""
    return [part.strip() for part in re.split(r"[,\n]", words or "") if part.strip()]


def _checked(path: str | None) -> str:
    """Raises UserError for no image, and for one that is too large to be decoded here; Segmenter tells the rest."""
    if path is None:
        raise UserError("no image; drop one into the field or choose an example")
    try:
        with Image.open(path) as image:  # reads its head alone
            width, height = image.size
    except Exception:  # Pillow raises many kinds
        return path
    if width * height > MOST_PIXELS:
        raise UserError(f"the image has {width} x {height} px, and this page takes {MOST_PIXELS:,} pixels; make it "
                        f"smaller, or use predict.py")
    return path


def _examples(folder: Path) -> list[list[str]]:
    """Scenes that no training has met, each with names to look for."""
    shapes, out = Classes.read(SHAPES).names, []
    for index, names in EXAMPLES:
        pixels = scene(shapes, range(1, len(shapes) + 1), EXAMPLES_SEED, index)[0]
        file = folder / f"example{index}.png"
        Image.fromarray(pixels).save(file)
        out.append([str(file), names])
    return out
