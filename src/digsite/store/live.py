"""`LiveSource`: a model that reads a corpus, as a source of rows.

1. The sequences of the corpus go through the model in batches that are the same whatever row reading starts at, so that
   a row has the same bits each time; the pass ends after the last site that is wanted.
2. Padding is dropped, and unless it is asked for the BOS.
3. Heads are laid side by side, and what is left are rows: sequence by sequence, position by position.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.models import Model, Tokens
from digsite.sites import SITES, Site
from digsite.store.rows import Rows, Statistics
from digsite.store.sums import Sums, check_finite
from digsite.tasks import Corpus

_SAMPLE = 16_384
"""Rows that statistics are taken over."""


class LiveSource:
    """A model that reads a corpus, as a source of rows.

    Attributes:
        model: The model.
        corpus: What it reads.
        sites: Where it is read; each is a column of this name.
        bos: Whether the rows of the BOS are kept. Its activations are of another size than all others, and the same
            each time.
        batch_size: Sequences in a pass.

    Caveats:
        Where the tokenizer puts no BOS, many models treat the first token of a sequence as one; such rows are kept.
        Another batch size can change the last bits of an activation.
    """

    def __init__(
        self,
        model: Model,
        corpus: Corpus,
        sites: str | Site | Iterable[str | Site],
        *,
        bos: bool = False,
        batch_size: int = 16,
    ):
        several = [sites] if isinstance(sites, str | Site) else list(sites)
        self.model, self.corpus, self.bos, self.batch_size = model, corpus, bos, batch_size
        self.sites = tuple(dict.fromkeys(site for one in several for site in model.anatomy.expand(one)))
        if not self.sites:
            raise BadInput(explain("A source reads at least one site", do='name one, such as "layers.0.resid_post"'))
        if batch_size < 1:
            raise BadInput(explain(f"batch_size={batch_size} is no number of sequences", possible="1 or more"))
        if wrong := [str(site) for site in self.sites if SITES[site.name].axes[:2] != ("batch", "pos")]:
            raise BadInput(explain(f"{wrong[0]} has no row for each token", do="choose a site with axes batch pos …"))

    # -- what it is ------------------------------------------------------------------------------------------------
    @property
    def widths(self) -> Mapping[str, int]:
        """The columns, with how many numbers a row of each has."""
        return self._widths

    @property
    def identity(self) -> Mapping[str, str]:
        """Model, weights, tokens, and what became of the BOS; reads the corpus once, without the model."""
        return self._identity

    @cached_property
    def _widths(self) -> Mapping[str, int]:
        first = next(iter(self.corpus.batches(1)))
        short = Tokens(first.ids[:, :2], first.mask[:, :2], bos=first.bos, tokenizer=first.tokenizer)
        run = self.model.run(short, read=self.sites, logits=None)
        return {str(site): run[site].flatten(2).shape[2] for site in self.sites}

    @property
    def rows(self) -> int:
        """How many rows there are; the first time it reads the corpus once, without the model.

        Raises:
            BadInput: There is not one.
        """
        census = self.corpus.census
        rows = census.tokens - (0 if self.bos else census.bos)
        if not rows:
            raise BadInput(explain(f"The corpus {self.corpus.name} has not one row", found="nothing beside the BOS"))
        return rows

    @cached_property
    def _identity(self) -> Mapping[str, str]:
        name = self.model.name
        return {
            "model": Path(name).resolve().name if Path(name).is_dir() else name,
            "revision": self.model.revision or "none",
            "weights": self.model.fingerprint,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "corpus": self.corpus.name,
            "tokens": self.corpus.fingerprint,
            "bos": self.corpus.bos + ("" if self._dropped is None else ", left out"),
        }

    @property
    def _dropped(self) -> int | None:
        return None if self.bos else self.corpus.bos_id

    # -- reading ---------------------------------------------------------------------------------------------------
    def chunks(self, start: int = 0) -> Iterator[Rows]:
        """The rows in order from number `start` on, one batch at a time.

        Raises:
            NotFinite: An activation is a NaN or infinite; the error names the site and the row.
        """
        for first, sequence, tokens, keep in self._batches():
            count = int(keep.sum())
            if first + count > start:
                rows = self._read(first, sequence, tokens, keep)
                yield rows.take(slice(start - first, None)) if start > first else rows

    def rows_at(self, numbers: Int[Tensor, " chosen"]) -> Rows:
        """The rows of these numbers, in the order given; only the batches that hold some are run."""
        order = numbers.argsort()
        wanted, parts, done = numbers[order], [], 0
        for first, sequence, tokens, keep in self._batches():
            until = int(torch.searchsorted(wanted, first + int(keep.sum())))
            if until > done:
                parts.append(self._read(first, sequence, tokens, keep).take(wanted[done:until] - first))
                done = until
            if done == len(wanted):
                break
        if done < len(wanted) or (len(wanted) and wanted[0] < 0):
            found = f"{wanted[-1] if done < len(wanted) else wanted[0]}"
            raise BadInput(explain("A row of this number is not there", found=found, possible=f"0 to {self.rows - 1}"))
        return Rows.join(parts).take(order.argsort())

    def statistics(self, column: str) -> Statistics:
        """Mean, square and norm of a column over the first part of the corpus (16,384 rows)."""
        if column not in self.widths:
            raise BadInput(explain(f"There is no column {column}", possible=list(self.widths), near=column))
        return self._statistics[column]

    @cached_property
    def _statistics(self) -> Mapping[str, Statistics]:
        sums: dict[str, list[Sums]] = {column: [] for column in self.widths}
        seen = 0
        for rows in self.chunks():
            for column, x in rows.items():
                sums[column].append(Sums.of(x[: _SAMPLE - seen]))
            seen += rows.count
            if seen >= _SAMPLE:
                break
        return {column: Sums.add(parts).statistics() for column, parts in sums.items()}

    def _batches(self) -> Iterator[tuple[int, int, Tokens, Bool[Tensor, "batch pos"]]]:
        """Every batch: its first row's number, its first sequence's, its tokens, and which of them are rows."""
        first = sequence = 0
        for tokens in self.corpus.batches(self.batch_size):
            keep = tokens.mask if self._dropped is None else tokens.mask & (tokens.ids != self._dropped)
            yield first, sequence, tokens, keep
            first, sequence = first + int(keep.sum()), sequence + len(tokens)

    def _read(self, first: int, sequence: int, tokens: Tokens, keep: Bool[Tensor, "batch pos"]) -> Rows:
        run = self.model.run(tokens, read=self.sites, logits=None)
        everything = bool(keep.all())
        columns: dict[str, Tensor] = {}
        for site in self.sites:
            x = run[site].flatten(2).flatten(0, 1)
            x = x if everything else x[keep.flatten().to(x.device)]
            columns[str(site)] = x.to("cpu")
            check_finite(columns[str(site)], column=str(site), first=first)
        where = keep.nonzero()
        places = torch.stack([where[:, 0] + sequence, tokens.positions[keep]], dim=1)
        return Rows(columns, tokens.ids[keep], torch.arange(first, first + len(where)), places)

    def __repr__(self) -> str:
        shown = ", ".join(map(str, self.sites[:4])) + (f" and {len(self.sites) - 4} more" * (len(self.sites) > 4))
        return f"{self.model.name} reading {self.corpus.name}: {shown}"
