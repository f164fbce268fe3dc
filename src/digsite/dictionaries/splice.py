"""A dictionary in the place of what the model computes: edits that write what it makes of what it reads.

1. What a block reads is encoded when the pass reaches it: later layers of a cross-layer transcoder see what the earlier
   ones have already changed.
2. When the pass reaches a written column, what is there is replaced by what the latents write to it.
3. A block that reads several columns (a crosscoder) cannot wait for the last of them: its columns are made of what a
   run without edits read.

The BOS and padding stay as the model computed them, for dictionaries are not trained on them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.dictionaries.dictionary import Dictionary
from digsite.models import Edit, Run, Tokens, apply
from digsite.store import Latents, Rows

Kept = Sequence[Bool[Tensor, " latent"]]
"""Of every block, which latents may fire."""


def splice(
    dictionary: Dictionary,
    tokens: Tokens,
    *,
    columns: Sequence[str] | None = None,
    run: Run | None = None,
    kept: Kept | None = None,
    bos: bool = False,
) -> list[Edit]:
    """Edits that put what a dictionary makes in the place of what the model computed: `model.run(tokens, edits=...)`.

    Args:
        dictionary: Of one model.
        tokens: What will be run, in one batch.
        columns: The written columns that are replaced; None for all of them at once.
        run: A run of the same tokens that read what the dictionary reads, to make the columns of: needed for a
            dictionary that reads several columns at once.
        kept: Of every block, which latents may fire; None for all.
        bos: Whether the BOS is replaced too.

    Raises:
        BadInput: A column that it does not write, or several columns read at once without a run.
    """
    wanted = _wanted(dictionary, columns)
    where = rows_in(tokens, bos=bos)
    if run is not None:
        rows = rows_of(run, dictionary.reads, where)
        made = dictionary.decode(encoded(dictionary, rows, kept), rows)
        return written({name: partial(_given, made[name]) for name in wanted}, where)
    if several := [block.config.reads for block in dictionary.blocks if len(block.config.reads) > 1]:
        asked = f"The dictionary reads {', '.join(several[0])} at once, and one pass cannot wait for the last of them"
        raise BadInput(explain(asked, do="splice(..., run=model.run(tokens, read=dictionary.reads, logits=None))"))
    live = _Live(dictionary, tokens.ids[where], kept)
    reads = [
        name for block in dictionary.blocks if set(block.config.writes) & set(wanted) for name in block.config.reads
    ]
    watching = [_at(name, where, partial(live.read, name), keep=True) for name in dict.fromkeys(reads)]
    return [*watching, *written({name: partial(live.write, name) for name in wanted}, where)]


def written(
    values: Mapping[str, Callable[[Float[Tensor, "row d"]], Float[Tensor, "row d"]]], where: Bool[Tensor, "batch pos"]
) -> list[Edit]:
    """Edits that replace the rows of columns.

    Args:
        values: For each column, from its rows to the new ones.
        where: Which positions are rows; the others stay.
    """
    return [_at(name, where, value) for name, value in values.items()]


def rows_in(tokens: Tokens, *, bos: bool = False) -> Bool[Tensor, "batch pos"]:
    """Which positions are rows: all real ones but, unless asked for, the BOS where sequences begin with one."""
    return tokens.mask if bos else tokens.without_bos


def rows_of(run: Run, columns: Sequence[str], where: Bool[Tensor, "batch pos"]) -> Rows:
    """The rows of columns in a run that read them; heads lie side by side."""
    flat = {}
    for name in columns:
        x = run[site_of(name)].flatten(2)
        flat[name] = x[where.to(x.device)]
    return Rows(flat, ids=run.tokens.ids[where])


def site_of(column: str) -> str:
    """The site of a column, without the name of its model."""
    return column.rpartition(":")[2]


def encoded(dictionary: Dictionary, rows: Rows, kept: Kept | None = None) -> list[Latents]:
    """The latents of every block, those that may not fire at zero.

    Args:
        dictionary: A dictionary.
        rows: What it reads; brought to its device and dtype.
        kept: Of every block, which latents may fire; None for all.
    """
    latents = dictionary.encode(rows.to(dictionary.b_dec[0].device, dictionary.b_dec[0].dtype))
    return latents if kept is None else [_only(one, keep) for one, keep in zip(latents, kept, strict=True)]


def _only(latents: Latents, keep: Bool[Tensor, " latent"]) -> Latents:
    return latents.with_values(latents.values * keep.to(latents.values.device)[latents.indices])


def _wanted(dictionary: Dictionary, columns: Sequence[str] | None) -> list[str]:
    wanted = list(dictionary.writes if columns is None else columns)
    if wrong := [name for name in wanted if name not in dictionary.writes]:
        raise BadInput(
            explain(f"The dictionary does not write {wrong[0]}", possible=list(dictionary.writes), near=wrong[0])
        )
    return wanted


class _Live:
    """What a dictionary has read so far in a pass, and what it makes of it."""

    def __init__(self, dictionary: Dictionary, ids: Tensor, kept: Kept | None):
        self.dictionary, self.ids, self.kept = dictionary, ids, kept
        self.seen: dict[str, Tensor] = {}
        self.latents: list[Latents | None] = [None] * len(dictionary.blocks)

    def read(self, column: str, x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """1. Encodes what there is now."""
        like = self.dictionary.b_dec[0]
        self.seen[column] = x.to(like.device, like.dtype)
        for number, block in enumerate(self.dictionary.blocks):
            if block.config.reads == (column,):
                latents = block.select(self.dictionary.inputs(block, self.rows))
                self.latents[number] = latents if self.kept is None else _only(latents, self.kept[number])
        return x

    def write(self, column: str, x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """2. What the latents write."""
        late = [
            block.config.reads[0]
            for block, latents in zip(self.dictionary.blocks, self.latents, strict=True)
            if column in block.config.writes and latents is None
        ]
        if late:
            raise BadInput(
                explain(f"{column} is reached before {late[0]}, which it is made of", do="splice(..., run=...)")
            )
        return self.dictionary.column(column, self.latents, self.rows)

    @property
    def rows(self) -> Rows:
        """What was read."""
        return Rows(self.seen, ids=self.ids.to(self.dictionary.b_dec[0].device))


def _given(made: Tensor, x: Tensor) -> Tensor:
    return made


def _at(
    column: str, where: Bool[Tensor, "batch pos"], function: Callable[[Tensor], Tensor], *, keep: bool = False
) -> Edit:
    """An edit of the rows of a column; with `keep` they are only looked at."""

    def edited(x: Tensor) -> Tensor:
        flat, rows = x.flatten(2), where.to(x.device)
        new = function(flat[rows])
        if keep:
            return x
        flat = flat.clone()
        flat[rows] = new.to(x.device, x.dtype)
        return flat.view(x.shape)

    return apply(site_of(column), edited)
