"""The checkpoint that comes with the code, and what it can be asked: Shapes-5i, no photographs."""
from data.folds import Classes
from data.shapes.pretrain.caption import PROMPTS, TEMPLATES
from data.shapes.scene import COLOURS, Style
from util.config import ROOT
from util.predict.names import listed

SHIPPED = ROOT / "data/shapes/plus_fold0.safetensors"
SHAPES = ROOT / "lists/shapes/classes.yaml"


def vocabulary() -> set[str]:
    """The words that the miniature CLIP has met: names of shapes, colours, sizes and the captions' own words."""
    said = " ".join([*Classes.read(SHAPES).names, *COLOURS, *TEMPLATES, *PROMPTS, "large small"])
    return set(said.replace("{}", " ").split())


def notes_on(names: list[str]) -> list[str]:
    """What a user must know of words that the miniature CLIP has never read."""
    known = vocabulary()
    foreign = [name for name in names if not set(name.lower().split()) <= known]
    if not foreign:
        return []
    shapes = ", ".join(Classes.read(SHAPES).names)
    return [f"{listed(list(map(repr, foreign)))}: the miniature CLIP has never read this, so what is found under it "
            f"means nothing; it knows {shapes}"]


def is_scene(shape: tuple[int, ...]) -> bool:
    """Whether an image (H, W, ...) has the size of a Shapes-5i scene. An image of another size is certainly none."""
    return tuple(shape[:2]) == (Style().side, Style().side)
