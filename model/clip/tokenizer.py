"""CLIP's byte-level BPE tokenizer (Radford 2021; BPE: Sennrich 2016) over OpenAI's published vocabulary file."""
import gzip
import html
from functools import lru_cache
from pathlib import Path

import ftfy
import regex
import torch
from torch import Tensor

from model.clip.errors import WeightsError

VOCABULARY = Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
MERGES = 49152 - 256 - 2  # merges that CLIP uses; the file holds more
WORD = regex.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
                     regex.IGNORECASE)


def _byte_alphabet() -> dict[int, str]:
    """Map each of the 256 bytes to a visible character: printable Latin-1 to itself, the rest from 256 up."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in set(visible)]
    return {**{byte: chr(byte) for byte in visible}, **{byte: chr(256 + i) for i, byte in enumerate(hidden)}}


class Tokenizer:
    """Text to token ids.

    >>> Tokenizer()("a photo of a cat", context_length=8).tolist()
    [[49406, 320, 1125, 539, 320, 2368, 49407, 0]]
    """

    def __init__(self, vocabulary: Path = VOCABULARY):
        with gzip.open(vocabulary, "rt", encoding="utf-8") as lines:
            merges = [tuple(line.split()) for line in lines.read().split("\n")[1:MERGES + 1]]
        self._alphabet = _byte_alphabet()
        letters = list(self._alphabet.values())
        words = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
        words += ["<|startoftext|>", "<|endoftext|>"]
        self._ids = {word: number for number, word in enumerate(words)}
        self._rank = {pair: number for number, pair in enumerate(merges)}
        self.start, self.end = self._ids["<|startoftext|>"], self._ids["<|endoftext|>"]
        self._pieces = lru_cache(maxsize=65536)(self._merge)

    def _merge(self, word: str) -> tuple[str, ...]:
        """Merge neighbouring pieces of a word, the vocabulary's earliest merge first, until none applies."""
        if word in ("<|startoftext|>", "<|endoftext|>"):
            return (word,)
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            best = min(zip(pieces, pieces[1:]), key=lambda pair: self._rank.get(pair, MERGES))
            if best not in self._rank:
                break
            joined, position = [], 0
            while position < len(pieces):
                if tuple(pieces[position:position + 2]) == best:
                    joined.append("".join(best))
                    position += 2
                else:
                    joined.append(pieces[position])
                    position += 1
            pieces = joined
        return tuple(pieces)

    def encode(self, text: str) -> list[int]:
        """Encode ``text`` as token ids without start and end."""
        if not (text.isascii() and text.isprintable()):     # those have nothing to mend, and ftfy is slow
            text = ftfy.fix_text(text)
        text = html.unescape(html.unescape(text))
        text = " ".join(text.split()).lower()
        return [self._ids[piece]
                for word in WORD.findall(text)
                for piece in self._pieces("".join(self._alphabet[byte] for byte in word.encode("utf-8")))]

    def __call__(self, texts: str | list[str], context_length: int = 77) -> Tensor:
        """Encode as (K, context_length) int64: start, text, end, zeros. Raises WeightsError if too long."""
        texts = [texts] if isinstance(texts, str) else texts
        out = torch.zeros(len(texts), context_length, dtype=torch.long)
        for row, text in zip(out, texts):
            ids = [self.start, *self.encode(text), self.end]
            if len(ids) > context_length:
                raise WeightsError(f"{text!r}: CLIP reads at most {context_length} tokens, and this has {len(ids)}")
            row[:len(ids)] = torch.tensor(ids)
        return out
