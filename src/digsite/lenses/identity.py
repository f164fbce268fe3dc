"""The few-shot prompt of a patchscope: words said twice, and a place for what is to be said."""

from collections.abc import Sequence

from digsite._core.errors import BadInput, explain
from digsite.models import Model
from digsite.models.tokens import one_token
from digsite.tasks.words import LOOSE, NAMES

SHOTS = 3
FORMS = ("{} -> {}; ", "{}: {}; ", "{} {}, ")
"""How a word is said twice: the form of the paper, then simpler ones, for tokenizers that lack its signs."""


def identity_prompt(model: Model, *, words: Sequence[str] = (*LOOSE, *NAMES), shots: int = SHOTS) -> tuple[str, int]:
    """A prompt such as "cat -> cat; dog -> dog; sun ->", and the position of its last word, which receives.

    Args:
        model: Its tokenizer decides which words and signs can be used.
        words: To choose from; those are taken that are one token.
        shots: Words that are said twice.

    Returns:
        The prompt, and the position of the placeholder, counted from the first token.

    Raises:
        BadInput: Too few of the words are one token, or the tokenizer knows none of the forms.

    Source: Ghandeharioun et al. 2024, "Patchscopes", the token identity prompt.
    """
    if model.tokenizer is None:
        raise BadInput(explain("This model has no tokenizer", do="give prompt= as tokens, and at="))
    known = [word for word in dict.fromkeys(words) if one_token(model.tokenizer, f" {word}") is not None]
    for form in FORMS if len(known) > shots else ():
        before = "".join(form.format(word, word) for word in known[:shots]) + known[shots]
        prompt = before + form.split("{}")[1].rstrip()
        if model.tokenizer.unk_token_id not in model.tokens([prompt]).ids.flatten().tolist():
            return prompt, model.tokens([before]).lengths[0] - 1
    raise BadInput(
        explain(
            "No identity prompt can be made for this tokenizer",
            found=f"fewer than {shots + 1} words that are one token, or none of the signs -> : ,",
            do="give prompt= and at= in words that it knows",
        )
    )
