"""Pictures of predictions: image, truth, prior mask and prediction side by side, named."""
from collections.abc import Iterable

import cv2
import numpy as np

from data.folds import Classes
from util.evaluation.metric import IGNORE
from util.evaluation.predict import Prediction
from util.results.panel import joined

_GREEN, _RED, _GREY = (40, 200, 80), (235, 60, 60), (160, 160, 160)  # RGB
_LEAST = 192  # px, the least height of a picture on the sheet


def _tint(image: np.ndarray, where: np.ndarray, colour) -> np.ndarray:
    out = image // 2  # what is not marked recedes
    out[where] = (0.45 * image[where] + 0.55 * np.array(colour)).astype(np.uint8)
    return out


def panel(p: Prediction, classes: Classes) -> np.ndarray:
    """(H', W', 3) uint8 RGB: the four pictures beside each other, as util/results/panel.py joins them."""
    height, width = p.mask.shape
    image = p.image.permute(1, 2, 0).numpy()[:p.valid_size[0], :p.valid_size[1]]
    factor = max(1, -(-_LEAST // height))
    size = (width * factor, height * factor)
    image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(p.mask, size, interpolation=cv2.INTER_NEAREST)
    truth = _tint(image, mask == p.sample.class_id, _GREEN)
    truth[mask == IGNORE] = _GREY
    prior = cv2.resize(p.prior[0].float().cpu().numpy(), p.image.shape[:0:-1])[:p.valid_size[0], :p.valid_size[1]]
    prior = (255 * cv2.resize(prior, size)).clip(0, 255).astype(np.uint8)
    prior = cv2.cvtColor(cv2.applyColorMap(prior, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    foreground = cv2.resize(p.evidence.cpu().numpy(), size, interpolation=cv2.INTER_LINEAR) > 0
    pictures = [image, truth, prior, _tint(image, foreground, _RED)]
    return joined(pictures, classes.name(p.sample.class_id))


def sheet(panels: Iterable[np.ndarray], columns: int = 2) -> np.ndarray:
    """Panels in a grid on white, each padded to the largest."""
    panels = list(panels)
    height, width = (max(p.shape[k] for p in panels) for k in (0, 1))
    cells = [cv2.copyMakeBorder(p, 6, 6 + height - p.shape[0], 6, 6 + width - p.shape[1], cv2.BORDER_CONSTANT,
                                value=(255, 255, 255)) for p in panels]
    while len(cells) % columns:
        cells.append(np.full_like(cells[0], 255))
    return np.vstack([np.hstack(cells[i:i + columns]) for i in range(0, len(cells), columns)])


def png(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB to the bytes of a PNG file."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def labelled(image: np.ndarray, mask: np.ndarray, classes: Classes, height: int = 300) -> np.ndarray:
    """(H', W', 3) uint8 RGB: the mask's classes in colours over the image, each with its name; ignored pixels white."""
    size = (max(1, round(image.shape[1] * height / image.shape[0])), height)
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    ids = [int(c) for c in np.unique(mask) if c not in (0, IGNORE)]
    hues = np.array([[[(67 * c) % 180, 220, 255]] for c in range(256)], np.uint8)  # neighbours in the list lie far apart
    colours = cv2.cvtColor(hues, cv2.COLOR_HSV2RGB)[:, 0]
    colours[IGNORE] = 255
    out = np.where((mask > 0)[..., None], (0.45 * image + 0.55 * colours[mask]).astype(np.uint8), image)
    for c in ids:
        y, x = (int(v) for v in np.argwhere(mask == c).mean(axis=0))
        for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(out, classes.name(c), (max(0, x - 25), y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thick, cv2.LINE_AA)
    return out
