"""What CLIP is told about a scene: a caption that names its objects, sometimes with colour, size and place."""
import numpy as np

TEMPLATES = ("a photo of {}", "a picture of {}", "an image of {}", "a drawing of {}", "{}", "there is {}")
PROMPTS = ("a photo of a {}", "a photo of the {}", "a picture of a {}", "an image of a {}", "a {}", "the {}", "{}")


def _place(thing) -> str:
    dx, dy = thing.x - 0.5, thing.y - 0.5
    if max(abs(dx), abs(dy)) < 0.12:
        return "in the middle"
    if abs(dx) > abs(dy):
        return "on the left" if dx < 0 else "on the right"
    return "at the top" if dy < 0 else "at the bottom"


def _phrase(rng, thing, middle: float, attributes) -> str:
    colour, size, place = rng.random(3) < np.asarray(attributes)
    words = ["a"]
    if size:
        words.append("large" if thing.diameter > middle else "small")
    if colour:
        words.append(thing.colour)
    words.append(thing.name)
    if place:
        words.append(_place(thing))
    return " ".join(words)


def caption(things, middle: float, attributes, rng: np.random.Generator) -> str:
    """One sentence that names every object of a scene.

    Args:
        things: the scene's ``Thing``s, in any order; middle: the diameter that parts small from large.
        attributes: the chances that an object's colour, size and place are told.
    """
    phrases = [_phrase(rng, things[i], middle, attributes) for i in rng.permutation(len(things))]
    listed = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(listed)


def plain_caption(things) -> str:
    """The names alone, for a scene whose full caption would not fit the context."""
    return " and ".join(f"a {thing.name}" for thing in things)
