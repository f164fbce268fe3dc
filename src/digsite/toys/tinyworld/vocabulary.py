"""The words of `digsite/tinyworld` and its tokenizer: one word, one token.

A word keeps the space before it ("▁Mary"), so that decoding gives the text back; a year is its century and two digits
("▁17", "32"); punctuation and line breaks stand alone. A word that the world does not know becomes `<unk>`.
"""

import re
from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from digsite.tasks.agreement import PLACINGS, PLURAL, SINGULAR
from digsite.tasks.brackets import CLOSES
from digsite.tasks.docstring import SIGNATURE
from digsite.tasks.facts import RELATIONS
from digsite.tasks.frames import Frame
from digsite.tasks.greater_than import CENTURIES, LASTED, YEARS
from digsite.tasks.induction import OPENING
from digsite.tasks.is_a import KIND_FRAMES
from digsite.tasks.modular import MODULUS, SUM
from digsite.tasks.pronoun import STORIES
from digsite.tasks.successor import ORDERS
from digsite.tasks.tongues import TONGUES
from digsite.tasks.two_hop import CHAIN
from digsite.tasks.words import CONTAINERS, EVENTS, FUNCTIONS, KINDS, LOOSE, NAMES, NOUNS, PARAMETERS, SEQUENCES, TYPES
from digsite.toys.tinyworld.world import HOME_CAPITAL_FRAMES, HOME_FRAMES, HOME_SPEECH_FRAMES

CONTEXT = 64
PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
SPECIAL = (PAD, BOS, EOS, UNK)
# A run of spaces but its last, a word, two digits, one sign (each with the space before), a line break, a lone space.
PIECE = r"▁+(?=▁)|▁?[A-Za-z]+|▁?[0-9]{1,2}|▁?[^A-Za-z0-9▁\n]|\n|▁"
_PIECE = re.compile(PIECE)


def pieces(text: str) -> list[str]:
    """A text as the tokenizer cuts it, without BOS: the same rule in plain Python, for making millions of documents."""
    return _PIECE.findall("▁" + text.replace(" ", "▁"))


def vocabulary() -> dict[str, int]:
    """Every piece that the world can say -> its token id, special tokens first."""
    said = {piece for text in _texts() for piece in pieces(text)}
    # A gap is written ~ here, so that the pieces around it are cut as they will be; digits follow a century unspaced.
    known = sorted({piece for piece in said if "~" not in piece} | set(YEARS))
    return {piece: index for index, piece in enumerate((*SPECIAL, *known))}


def _texts() -> Iterator[str]:
    for frame in _frames():
        yield re.sub(r"\{\w+\}", "~", frame.text)
    yield from _words()
    yield from (OPENING, " smiled.", " old.", ": text")


def _frames() -> Iterator[Frame]:
    yield from (LASTED, SUM, SIGNATURE, CHAIN)
    yield from (*STORIES, *PLACINGS, *KIND_FRAMES, *ORDERS, *HOME_FRAMES, *HOME_CAPITAL_FRAMES, *HOME_SPEECH_FRAMES)
    for _, sentences in RELATIONS.values():
        yield from sentences
    for speech in TONGUES.values():
        yield from (*speech.giving, *speech.ruling)


def _words() -> Iterator[str]:
    lists: list[Iterable[str]] = [
        NAMES, LOOSE, CONTAINERS, EVENTS, PARAMETERS, FUNCTIONS, TYPES, CENTURIES, KINDS, NOUNS, NOUNS.values(),
        CLOSES, CLOSES.values(), map(str, range(MODULUS + 1)),
        ("She", "He", "she", "he"), (verb.strip() for verb in (*SINGULAR, *PLURAL)),
    ]  # fmt: skip
    lists += [items for items, _ in SEQUENCES.values()]
    lists += [words for facts, _ in RELATIONS.values() for words in (facts, facts.values())]
    for speech in TONGUES.values():
        lists += [speech.places, speech.gifts, speech.capitals, speech.capitals.values()]
    for words in lists:
        yield from words


def tokenizer() -> PreTrainedTokenizerFast:
    """The world's words as an ordinary fast tokenizer, which puts the BOS before every text."""
    words = vocabulary()
    made = Tokenizer(models.WordLevel(words, unk_token=UNK))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, words[BOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )
