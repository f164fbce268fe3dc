"""`digsite generate`: what a model writes."""

from typing import Annotated

from cyclopts import Parameter

from digsite._core.cost import measure
from digsite.cli.inputs import AS_STORED, Count, Loading, ModelName
from digsite.cli.outputs import Json, answers, print_json


def generate(
    *,
    model: ModelName,
    prompt: Annotated[list[str], Parameter(consume_multiple=False)],
    tokens: Count = 20,
    json: Json = False,
    loading: Loading = AS_STORED,
) -> None:
    """What does the model write after a prompt? The most likely token each time.

    Args:
        prompt: Where it begins; give the option again for another prompt.
        tokens: Most tokens to write; it stops earlier at the model's own end.
    """
    loaded = loading.load(model)
    with measure() as cost:
        read = loaded.tokens(prompt)
        written = loaded.generate(read, max_new_tokens=tokens)
    if json:
        from digsite.models import made_by

        call = f"model.generate(model.tokens({prompt!r}), max_new_tokens={tokens})"
        rows = zip(prompt, read.strings, written.texts, written.generated, strict=True)
        keys = ("prompt", "tokens", "text", "ids")
        made = [dict(zip(keys, row, strict=True)) for row in rows]
        origin = {"cost": vars(cost), "provenance": made_by(call, loaded, read.fingerprint).to_dict()}
        print_json({"model": loaded.name, "bos": read.bos, "generations": made} | origin)
        return
    out = answers()
    out.print(repr(read), style="dim", soft_wrap=True)
    for start, text in zip(prompt, written.texts, strict=True):
        out.print()
        out.print(start, end="", style="dim", soft_wrap=True)
        out.print(text, soft_wrap=True)
