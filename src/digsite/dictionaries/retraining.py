"""A dictionary trained again as it was, on another model: what the baseline of random weights needs.

1. The record of a dictionary says what it learned from: how many rows of which text, in which batches, by which recipe.
2. A new, empty dictionary of the same shape learns from the activations of the other model on the same text, as often.
"""

from collections.abc import Callable
from dataclasses import replace

from digsite._core.errors import BadInput, explain
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.recipes import RECIPES
from digsite.dictionaries.training import train
from digsite.models import Model
from digsite.store import LiveSource, Remembered
from digsite.tasks import Corpus

_NEEDED = ("recipe", "rows", "batch", "buffer", "seed")


def retrain_like(dictionary: Dictionary, corpus: Corpus) -> Callable[[Model], Dictionary]:
    """What trains a dictionary like this one on the model it is given; for `evaluate(..., retrain=)`.

    Args:
        dictionary: One that `train` made, with its record.
        corpus: The text that it was trained on.

    Raises:
        BadInput: Its record does not say how it was trained, or it reads several models.

    Caveats:
        The recipe is the one of that name in `RECIPES`, with the dictionary's own activation and wished L0; other
        changes of a recipe are not in the record. The rows are held in memory.
    """
    origin = dictionary.config.origin
    lacking = [key for key in _NEEDED if key not in origin]
    unknown = origin.get("recipe") not in RECIPES
    if lacking or unknown:
        found = f"no {', '.join(lacking)}" if lacking else f"the recipe {origin.get('recipe')}"
        do = "write retrain= yourself: it is given a model, and gives a dictionary"
        raise BadInput(explain("The record of this dictionary does not say how it was trained", found=found, do=do))
    columns = list(dict.fromkeys((*dictionary.reads, *dictionary.writes)))
    if several := [column for column in columns if ":" in column]:
        do = "write retrain= yourself"
        raise BadInput(explain("This dictionary reads several models", found=several[0], do=do))
    activation = dictionary.config.blocks[0].activation
    recipe = replace(RECIPES[str(origin["recipe"])], activation=activation, l0=origin.get("l0"))

    def again(model: Model) -> Dictionary:
        source = Remembered(LiveSource(model, corpus, columns, bos=bool(origin.get("keep_bos", False))))
        empty = Dictionary(replace(dictionary.config, origin={})).to(model.device)
        made = train(
            source,
            empty,
            recipe,
            rows=int(origin["rows"]),
            batch=int(origin["batch"]),
            buffer=int(origin["buffer"]),
            seed=int(origin["seed"]),
        )
        return made.dictionary

    return again
