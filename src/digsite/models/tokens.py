"""Token truth: the exact ids, the mask, the strings, and who put the BOS there.

Positions are absolute and count real tokens only: position 0 is a row's first real token, -1 its last, wherever the
padding is. `places` turns such positions into columns; everything that selects positions goes through it.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite._core.visible import visible

Positions = int | slice | Sequence[int] | Tensor | None


class Places(NamedTuple):
    """Cells of a [row, column] grid, flattened."""

    rows: Int[Tensor, " place"]
    columns: Int[Tensor, " place"]
    per_row: int | None  # how many places each row has; None where rows differ


class Turn(NamedTuple):
    """One turn of a conversation, as positions `start` to `stop` (exclusive) of a row."""

    role: str
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Tokens:
    """What the model gets, exactly.

    Attributes:
        ids: Token ids; padding columns hold the pad id.
        mask: True where a token is real.
        bos: Whether each row starts with a BOS, and who put it there.
        texts: The strings the ids were made from, when there were any.
        turns: For each row of a conversation, its turns.
    """

    ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    bos: str = "unknown"
    texts: tuple[str, ...] | None = None
    turns: tuple[tuple[Turn, ...], ...] | None = None
    tokenizer: Any = field(default=None, repr=False)

    def __post_init__(self):
        if self.ids.ndim != 2 or not len(self.ids):
            raise BadInput(
                explain("Tokens need at least one row of ids", found=f"ids of shape {tuple(self.ids.shape)}")
            )
        empty = [row for row, length in enumerate(self.lengths) if not length]
        if empty:
            raise BadInput(
                explain(
                    "A prompt is empty",
                    found=f"no token in row {empty[0]}" + (f" and {len(empty) - 1} more" if len(empty) > 1 else ""),
                    do="give every row at least one token",
                )
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Any) -> "Tokens":
        """The chosen rows (an int keeps one row), in a grid as narrow as they need."""
        index = torch.arange(len(self))[rows].reshape(-1)
        mask = self.mask[index]
        used = mask.any(0).nonzero()
        columns = slice(int(used[0]), int(used[-1]) + 1)
        pick = index.tolist()
        return replace(
            self,
            ids=self.ids[index][:, columns],
            mask=mask[:, columns],
            texts=tuple(self.texts[i] for i in pick) if self.texts else None,
            turns=tuple(self.turns[i] for i in pick) if self.turns else None,
        )

    def check(self, d_vocab: int, n_ctx: int | None) -> None:
        """Whether a model can read these rows.

        Args:
            d_vocab: Ids that it knows.
            n_ctx: Its longest row, or None.

        Raises:
            BadInput: An id is not in the vocabulary, or a row is too long.
        """
        smallest, largest = self.id_range
        if largest >= d_vocab or smallest < 0:
            wrong = largest if largest >= d_vocab else smallest
            raise BadInput(explain(f"Token id {wrong} is not in the vocabulary", possible=f"0 to {d_vocab - 1}"))
        if n_ctx is not None and max(self.lengths) > n_ctx:
            raise BadInput(
                explain(
                    "A row is longer than the model's context",
                    found=f"{max(self.lengths)} tokens",
                    possible=f"at most {n_ctx}",
                    do="shorten it, or cut it into rows with tasks.Corpus",
                )
            )

    def batches(self, batch_size: int) -> Iterator["Tokens"]:
        """The rows in order, `batch_size` at a time."""
        for start in range(0, len(self), batch_size):
            yield self[start : start + batch_size]

    @cached_property
    def lengths(self) -> list[int]:
        """Real tokens in each row."""
        return self.mask.sum(1).tolist()

    @cached_property
    def id_range(self) -> tuple[int, int]:
        """The smallest and the largest id, padding included."""
        low, high = torch.aminmax(self.ids)
        return int(low), int(high)

    @cached_property
    def starts(self) -> list[int]:
        """The column of each row's first real token."""
        return self.mask.int().argmax(1).tolist()

    @cached_property
    def padded(self) -> bool:
        """Whether any column of any row is padding."""
        return not bool(self.mask.all())

    @cached_property
    def without_bos(self) -> Bool[Tensor, "batch pos"]:
        """True where a token is real and no BOS, if rows begin with one: its activations are of another size."""
        bos = getattr(self.tokenizer, "bos_token_id", None)
        leads = bos is not None and int(self.ids[0, self.starts[0]]) == bos
        return self.mask & (self.ids != bos) if leads else self.mask

    @cached_property
    def positions(self) -> Int[Tensor, "batch pos"]:
        """Absolute position of each column; padding holds 0."""
        return (self.mask.long().cumsum(1) - 1).clamp(min=0)

    @cached_property
    def strings(self) -> list[list[str]]:
        """The text of every real token, row by row, with its leading space."""
        return [[self._string(i) for i in row[mask].tolist()] for row, mask in zip(self.ids, self.mask, strict=True)]

    def _string(self, token: int) -> str:
        if self.tokenizer is None:
            return str(token)
        piece = self.tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return f"<{token}>"
        text = self.tokenizer.convert_tokens_to_string([piece])
        # Sentencepiece decoders drop a leading space at the start of a text; the piece still shows it.
        return " " + text if piece[0] in "▁Ġ" and not text.startswith(" ") else text

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that identify ids and mask."""
        digest = hashlib.sha256(str(tuple(self.ids.shape)).encode())
        digest.update(self.ids.masked_fill(~self.mask, -1).to(torch.int64).contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def padded_left(self) -> "Tokens":
        """The same rows with all padding on the left, so that every row ends in the last column."""
        ids, mask = self.ids.clone(), self.mask.clone()
        width = ids.shape[1]
        for row, (start, length) in enumerate(zip(self.starts, self.lengths, strict=True)):
            shift = width - start - length
            ids[row], mask[row] = ids[row].roll(shift), mask[row].roll(shift)
        return replace(self, ids=ids, mask=mask)

    def places(self, at: Positions) -> Places:
        """The cells that `at` selects in every row.

        Args:
            at: An int or several (negative counts from a row's end), a slice of positions, a tensor [batch] or
                [batch, k] of positions of each row, or None for all real tokens.

        Raises:
            BadInput: A position lies outside a row.
        """
        if isinstance(at, Tensor) and at.ndim and len(at) != len(self):
            raise BadInput(
                explain(
                    "Positions in a tensor are those of each row",
                    found=f"{len(at)} of them for {len(self)} rows",
                    do="give a list if they are the same in every row",
                )
            )
        chosen: list[list[int]] = []
        for row, length in enumerate(self.lengths):
            wanted = at[row] if isinstance(at, Tensor) and at.ndim else at
            chosen.append(_positions(wanted, length, row))
        counts = {len(c) for c in chosen}
        rows = torch.tensor([row for row, c in enumerate(chosen) for _ in c], dtype=torch.long)
        columns = torch.tensor([p + self.starts[row] for row, c in enumerate(chosen) for p in c], dtype=torch.long)
        return Places(rows, columns, counts.pop() if len(counts) == 1 else None)

    def __repr__(self) -> str:
        shown = []
        for row, strings in enumerate(self.strings[:4]):
            cells = [visible(s) for s in strings]
            body = "│".join(cells if len(cells) <= 40 else [*cells[:20], "…", *cells[-20:]])
            shown.append(f"  {row}: {body}  ({len(strings)} tokens)")
        more = [f"  … {len(self) - 4} more rows"] if len(self) > 4 else []
        head = f"Tokens: {len(self)} rows, {self.ids.shape[1]} columns; BOS {self.bos}"
        return "\n".join([head, *shown, *more])


def _positions(at: Any, length: int, row: int) -> list[int]:
    if at is None:
        return list(range(length))
    if isinstance(at, slice):
        return list(range(*at.indices(length)))
    wanted = at.reshape(-1).tolist() if isinstance(at, Tensor) else [at] if isinstance(at, int) else list(at)
    for position in wanted:
        if not -length <= position < length:
            raise BadInput(
                explain(
                    f"Position {position} is outside row {row}",
                    found=f"{length} real tokens",
                    possible=f"0 to {length - 1}, or -{length} to -1 from the end",
                )
            )
    return [p % length for p in wanted]


def given(ids: Tensor, tokenizer: Any) -> Tokens:
    """Token rows of a tensor of ids, every column real."""
    if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise BadInput(
            explain(
                "Token ids in a tensor are integers [batch, pos]",
                found=f"{str(ids.dtype).removeprefix('torch.')} of shape {tuple(ids.shape)}",
            )
        )
    rows = ids.cpu().long()
    return Tokens(rows, torch.ones_like(rows, dtype=torch.bool), bos="as given", tokenizer=tokenizer)


def tokenize(tokenizer: Any, texts: Sequence[str], *, special: bool | None, padding: str) -> Tokens:
    """Token rows of strings, with the tokenizer's own BOS policy unless `special` says otherwise."""
    if tokenizer is None:
        raise BadInput(explain("This model has no tokenizer", do="give token ids instead of strings"))
    add = True if special is None else special
    rows = [tokenizer(text, add_special_tokens=add)["input_ids"] for text in texts]
    bos = tokenizer.bos_token_id
    has = [bool(row) and bos is not None and row[0] == bos for row in rows]
    twice = [i for i, row in enumerate(rows) if has[i] and len(row) > 1 and row[1] == bos]
    if twice:
        raise BadInput(
            explain(
                f"Row {twice[0]} starts with two BOS tokens",
                found="one from the tokenizer and one in the text",
                do=f"remove {tokenizer.bos_token!r} from the text, or pass special=False",
            )
        )
    if not any(has):
        who = "none" if bos is not None else "none (the tokenizer has no BOS)"
    elif add and not any(text.startswith(tokenizer.bos_token) for text in texts):
        who = "added by the tokenizer" if all(has) else "added by the tokenizer in some rows"
    else:
        who = "in the text"
    return grid(rows, pad=pad_id(tokenizer), padding=padding, bos=who, texts=tuple(texts), tokenizer=tokenizer)


def pad_id(tokenizer: Any) -> int:
    """The id to put into padding columns; masked, so its value never matters."""
    known = (getattr(tokenizer, "pad_token_id", None), getattr(tokenizer, "eos_token_id", None))
    return next((token for token in known if token is not None), 0)


def leading_bos(tokenizer: Any) -> int | None:
    """The BOS that a tokenizer puts before every text, or None."""
    bos = getattr(tokenizer, "bos_token_id", None)
    return bos if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else None


def one_token(tokenizer: Any, text: str) -> int | None:
    """The id of a text that is one token, or None: of several, unknown, or where there is no tokenizer.

    A text with a space before it is taken as it stands in running text, whatever the tokenizer does at a text's start.
    """
    if tokenizer is None:
        return None
    lead = "." if text.startswith(" ") else ""
    try:
        before, ids = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (lead, lead + text))
    except Exception:  # what a tokenizer without an unknown token raises about a word that it does not know
        return None
    if ids[:-1] != before or not ids or ids[-1] == tokenizer.unk_token_id:
        return None
    return ids[-1]


def grid(
    rows: Sequence[Sequence[int]],
    *,
    pad: int = 0,
    padding: str = "right",
    bos: str = "as given",
    texts: tuple[str, ...] | None = None,
    turns: tuple[tuple[Turn, ...], ...] | None = None,
    tokenizer: Any = None,
) -> Tokens:
    """Rows of ids as one padded grid."""
    if padding not in ("left", "right"):
        raise BadInput(explain(f"padding={padding!r} is not a side", possible=["left", "right"]))
    width = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if padding == "left" else slice(0, len(row))
        ids[i, where] = torch.tensor(row, dtype=torch.long)
        mask[i, where] = True
    return Tokens(ids=ids, mask=mask, bos=bos, texts=texts, turns=turns, tokenizer=tokenizer)


def conversation(
    tokenizer: Any,
    chats: Sequence[Sequence[Mapping[str, str]]],
    *,
    add_generation_prompt: bool = False,
    padding: str = "right",
) -> Tokens:
    """Conversations in the tokenizer's own chat template, with the position range of every turn.

    A turn's range is found by rendering growing prefixes of the conversation, so that any template works; a token that
    spans two turns counts to the first. A template that rewrites earlier turns (some drop the thinking of past turns)
    is refused for the turn it rewrites; where it folds a turn into the next one, the folded turn is empty.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise BadInput(
            explain(
                "This tokenizer has no chat template",
                do="use model.tokens([...]) with plain text, or set tokenizer.chat_template",
            )
        )
    rows, turns = [], []
    for chat in chats:
        if not chat:
            raise BadInput(explain("A conversation is empty", do="give each conversation at least one turn"))
        try:
            text = _render(tokenizer, chat, generation=add_generation_prompt)
        except Exception as error:  # whatever a template raises about the conversation it was given
            raise BadInput(explain("The chat template refuses this conversation", found=str(error))) from error
        ends = [_end(tokenizer, chat, count, text) for count in range(1, len(chat) + 1)]
        ids, starts = _encode(tokenizer, text, [0, *ends, len(text)])
        found = [Turn(m["role"], *span) for m, span in zip(chat, pairwise(starts[:-1]), strict=True)]
        if ends[-1] < len(text):
            found.append(Turn("generation", starts[-2], len(ids)))
        rows.append(ids)
        turns.append(tuple(found))
    bos = tokenizer.bos_token_id
    who = "from the chat template" if bos is not None and rows[0][:1] == [bos] else "none"
    return grid(rows, pad=pad_id(tokenizer), padding=padding, bos=who, turns=tuple(turns), tokenizer=tokenizer)


def _end(tokenizer: Any, chat: Sequence[Mapping[str, str]], count: int, text: str) -> int:
    """Where in the text of a conversation its first `count` turns end."""
    try:
        prefix = _render(tokenizer, chat[:count], generation=False)
    except Exception:  # a template that needs the next turn too, into which it folds this one
        return _end(tokenizer, chat, count - 1, text) if count > 1 else 0
    if not text.startswith(prefix):
        raise BadInput(
            explain(
                f"The chat template rewrites turn {count - 1} ({chat[count - 1]['role']}) when later turns follow",
                do="give the rendered text to model.tokens(..., special=False) and choose positions yourself",
            )
        )
    return len(prefix)


def _encode(tokenizer: Any, text: str, ends: Sequence[int]) -> tuple[list[int], list[int]]:
    """The ids of a text, and how many tokens begin before each of some places in it."""
    if not getattr(tokenizer, "is_fast", False):  # no offsets; right where no token spans an end
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids, [len(tokenizer(text[:end], add_special_tokens=False)["input_ids"]) for end in ends]
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    begins = [begin for begin, _ in coded["offset_mapping"]]
    return coded["input_ids"], [bisect_left(begins, end) for end in ends]


def _render(tokenizer: Any, chat: Sequence[Mapping[str, str]], *, generation: bool) -> str:
    return tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=generation)
