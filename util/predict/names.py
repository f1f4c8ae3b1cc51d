"""The names that a user looks for, checked before anything long begins."""
import unicodedata
from collections.abc import Iterable

from util.runtime.errors import UserError
from util.values import show

MOST_NAMES = 254    # with the rival words: values of an 8-bit mask, less 0 for none and 255, by custom for ignored


def checked_names(names: str | Iterable[str], others: str | Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """Names and rival words, their blanks tidied; a single text is one name.

    Raises UserError where there are no names or too many, where one is empty or not printable, and where two are equal
    but for case and blanks, which CLIP does not read.
    """
    names, others = ([words] if isinstance(words, str) else list(words) for words in (names, others))
    if not names:
        raise UserError("no names; say what to look for, as in --names star key \"traffic light\"")
    if len(names) + len(others) > MOST_NAMES:
        raise UserError(f"{len(names) + len(others)} names, with --others, where at most {MOST_NAMES} fit into a mask "
                        f"of 8 bits; ask for them in several parts, each with its own --out")
    first: dict[str, str] = {}
    out = []
    for kind, words in (("name", names), ("word of --others", others)):
        tidied = []
        for number, word in enumerate(words, start=1):
            what = f"{kind} {number}"
            tidy = " ".join(word.split()) if isinstance(word, str) else ""
            if not any(unicodedata.category(c)[0] in "LNSPM" for c in tidy):
                raise UserError(f"{what} is {show(word)} and should be a word or a few")
            if any(unicodedata.category(c) in ("Cc", "Cs") for c in tidy):
                raise UserError(f"{what}, {show(word)}, holds control characters or bytes that are not UTF-8; write it "
                                f"without them")
            same = first.setdefault(unicodedata.normalize("NFKC", tidy).casefold(), what)
            if same != what:
                raise UserError(f"{what}, {show(word)}, is the same as {same}; give it once")
            tidied.append(tidy)
        out.append(tidied)
    return out[0], out[1]


def unfamiliar(names: list[str]) -> list[str]:
    """The names in another script than the Latin one. Nearly all captions that CLIP has read were English."""
    return [name for name in names if any(c.isalpha() for c in name)
            and not any("LATIN" in unicodedata.name(c, "") for c in name if c.isalpha())]


def listed(names: list[str], most: int = 8, longest: int = 60) -> str:
    """Names for a line that people read: the first ones, and how many more there are."""
    short = [name if len(name) <= longest else f"{name[:longest]}..." for name in names[:most]]
    return ", ".join(short) + f" and {len(names) - most} more" * (len(names) > most)
