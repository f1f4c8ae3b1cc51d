"""Pictures of predictions: image, truth, prior mask and prediction."""
import cv2
import numpy as np

from data.folds import Classes
from data.samples import Sample
from model import IGNORE
from util.evaluation.predictor import Prediction

LONGEST = 256                                       # px, the longer side of a picture, whatever the image's shape
PICTURES = ("image", "truth", "prior", "prediction")
BLUE, ORANGE = (0, 114, 178), (230, 159, 0)         # RGB, of Okabe and Ito's palette: safe for the colour-blind
_GREY, _WHITE, _BLACK = (160, 160, 160), (255, 255, 255), (0, 0, 0)
_LINE, _GAP, _FONT = 24, 4, cv2.FONT_HERSHEY_SIMPLEX  # px: height of a line of text, space between two pictures


def pictures_of(p: Prediction) -> dict[str, np.ndarray]:
    """Render {name of PICTURES: (h, w, 3) uint8 RGB}, LONGEST px long; 255 is grey, the prior dark (0) to light (1)."""
    scale = LONGEST / max(p.mask.shape)
    size = tuple(max(1, round(side * scale)) for side in p.mask.shape[::-1])
    image = cv2.resize(p.image.permute(1, 2, 0).numpy()[:p.valid_size[0], :p.valid_size[1]], size,
                       interpolation=cv2.INTER_AREA if max(p.valid_size) > LONGEST else cv2.INTER_CUBIC)
    mask = cv2.resize(p.mask, size, interpolation=cv2.INTER_NEAREST)
    truth = _outlined(image, mask == p.sample.class_id, BLUE)
    truth[mask == IGNORE] = _GREY
    prior = cv2.resize(p.prior[0].float().cpu().numpy(), p.image.shape[:0:-1])[:p.valid_size[0], :p.valid_size[1]]
    prior = (255 * cv2.resize(prior, size)).clip(0, 255).astype(np.uint8)
    prior = cv2.cvtColor(cv2.applyColorMap(prior, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    foreground = cv2.resize(p.margin.cpu().numpy(), size, interpolation=cv2.INTER_LINEAR) > 0
    return dict(zip(PICTURES, (image, truth, prior, _outlined(image, foreground, ORANGE)), strict=True))


def extremes(ious: dict[Sample, float], count: int) -> dict[str, list[Sample]]:
    """Select {"best", "median" and "worst": ``count`` samples each by their IoU}; fewer where there are fewer."""
    ranked = sorted(ious, key=ious.get, reverse=True)
    middle = max(0, (len(ranked) - count) // 2)
    return {"best": ranked[:count], "median": ranked[middle:middle + count], "worst": ranked[::-1][:count]}


def _outlined(image: np.ndarray, region: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Tint a region (h, w) bool and outline it with a white rim that shows on any background."""
    out = image.copy()
    out[region] = (0.65 * image[region] + 0.35 * np.array(colour)).astype(np.uint8)
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for edge, thickness in ((_WHITE, 4), (colour, 2)):
        cv2.drawContours(out, contours, -1, edge, thickness, cv2.LINE_AA)
    return out


def panel(p: Prediction, classes: Classes, names: tuple[str, ...] = PICTURES, remark: str = "") -> np.ndarray:
    """Draw pictures of ``names`` side by side below remark, class name and IoU: (H', W', 3) uint8 RGB."""
    pictures = {name: picture for name, picture in pictures_of(p).items() if name in names}
    height = 2 * _LINE + max(picture.shape[0] for picture in pictures.values())
    out = np.full((height, len(pictures) * (LONGEST + _GAP) - _GAP, 3), _WHITE, np.uint8)
    title = f"{remark}{classes.name(p.sample.class_id)}: IoU {100 * p.counts.iou:.0f} %"
    cv2.putText(out, title, (0, 18), _FONT, 0.7, _BLACK, 2, cv2.LINE_AA)
    for k, (name, picture) in enumerate(pictures.items()):
        left = k * (LONGEST + _GAP)
        cv2.putText(out, name, (left, _LINE + 17), _FONT, 0.6, _BLACK, 1, cv2.LINE_AA)
        out[2 * _LINE:, left:left + picture.shape[1]] = picture
    return out
