"""`Model`: an unmodified Hugging Face decoder, read and edited at sites.

A run in five steps:
1. Addresses become concrete sites; what the model lacks is refused with a reason.
2. The acts that serve those sites are compiled, once for each set of sites.
3. Hooks are put up at those module sides alone, attention is switched to the registered function, and the model runs.
4. Everything is taken down again, whatever happened.
5. A site that did not fire is an error.
"""

import contextlib
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.models import measure
from digsite.models.anatomy import Anatomy
from digsite.models.edits import Edit
from digsite.models.execution import execute
from digsite.models.generate import Generation, Sampling, StopAt, generate
from digsite.models.identity import fingerprint
from digsite.models.instrument import Instrument
from digsite.models.memory import MemoryPlan
from digsite.models.plan import Logits, Plan, Reads
from digsite.models.readout import readout, readout_fingerprint
from digsite.models.run import Run
from digsite.models.savings import planned, shape_only
from digsite.models.tokens import Positions, Tokens, conversation, given, grid, tokenize
from digsite.models.verify import Verification, verify
from digsite.models.visit import Key, Visit, key_of
from digsite.models.weights import Weights
from digsite.sites import Site


class Model:
    """A Hugging Face causal language model with an address for everything inside it.

    Make one with `digsite.load`. The model object that was loaded is the one that runs: hooks exist during a run only,
    and no weight is ever written.

    Attributes:
        hf: The Hugging Face model.
        tokenizer: Its tokenizer, or None.
        name: What it was loaded as.
        revision: The hub commit, where there is one.
        attention: "eager" (every site exists) or "sdpa" (no scores and pattern).
        anatomy: Where its parts are.
    """

    def __init__(self, hf: Any, tokenizer: Any, anatomy: Anatomy, *, name: str, revision: str | None, attention: str):
        self.hf, self.tokenizer, self.anatomy = hf, tokenizer, anatomy
        self.name, self.revision, self.attention = name, revision, attention
        self.snapshots: frozenset[Key] = frozenset()
        self.measured: dict[Any, Tensor] = {}
        self.instrument = Instrument(hf, anatomy, attention)
        self._layer_of = {block.attn: block.index for block in anatomy.blocks if block.attn is not None}
        parameters = inspect.signature(hf.forward).parameters
        self.takes = {name for name in ("position_ids", "use_cache", "logits_to_keep") if name in parameters}
        # What transformers calls the KV cache, from 5.24 on and before.
        self.cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._reads = lru_cache(maxsize=256)(self._listed)

    # -- facts -----------------------------------------------------------------------------------------------------
    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.anatomy.blocks)

    @property
    def n_heads(self) -> int:
        """Query heads in a layer."""
        return self.anatomy.n_heads

    @property
    def n_kv_heads(self) -> int:
        """Key and value heads in a layer."""
        return self.anatomy.n_kv_heads

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.anatomy.d_model

    @property
    def d_head(self) -> int:
        """Width of a head."""
        return self.anatomy.d_head

    @cached_property
    def d_vocab(self) -> int:
        """Rows of the embedding: one more than the largest token id."""
        weight = getattr(self.anatomy.embed, "weight", None)
        return self.hf.config.get_text_config().vocab_size if weight is None else weight.shape[0]

    @cached_property
    def n_ctx(self) -> int | None:
        """Longest row the model takes; None where it states no limit."""
        config = self.hf.config.get_text_config()
        names = ("max_position_embeddings", "n_positions", "max_seq_len")
        return next((v for name in names if isinstance(v := getattr(config, name, None), int)), None)

    @property
    def device(self) -> torch.device:
        """Where the embedding lives, and tokens go."""
        return next(self.anatomy.embed.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the embedding."""
        return next(self.anatomy.embed.parameters()).dtype

    @cached_property
    def sites(self) -> list[Site]:
        """Every site of this model."""
        return self.anatomy.sites()

    @cached_property
    def weights(self) -> Weights:
        """Canonical lazy views of its weights."""
        return Weights(self.anatomy)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that identify architecture and weights."""
        return fingerprint(self.hf)

    @cached_property
    def readout_fingerprint(self) -> str:
        """Sixteen hex digits over all numbers that `readout` computes with."""
        return readout_fingerprint(self.hf, self.anatomy)

    def __repr__(self) -> str:
        return (
            f"Model {self.name}: {self.hf.config.model_type}, {self.n_layers} layers × {self.n_heads} heads, "
            f"d_model {self.d_model}, vocabulary {self.d_vocab}, {self.dtype}, {self.device}".replace("torch.", "")
        )

    # -- tokens ----------------------------------------------------------------------------------------------------
    def tokens(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]] | Int[Tensor, "batch pos"],
        *,
        special: bool | None = None,
        padding: str = "right",
    ) -> Tokens:
        """Exactly what the model will read.

        Args:
            texts: Strings, rows of ids, or a tensor of ids.
            special: Whether the tokenizer adds its special tokens; None leaves it to the tokenizer.
            padding: The side that shorter rows are padded on.

        Raises:
            BadInput: A bare string, an empty prompt, a doubled BOS, or an id outside the vocabulary.
        """
        if isinstance(texts, str):
            raise BadInput(explain("Prompts come as a list", found="one bare string", do=f"model.tokens([{texts!r}])"))
        if isinstance(texts, Tensor):
            made = given(texts, self.tokenizer)
        elif texts and isinstance(texts[0], str):
            made = tokenize(self.tokenizer, texts, special=special, padding=padding)  # pyright: ignore[reportArgumentType]
        else:
            made = grid(texts, padding=padding, tokenizer=self.tokenizer)  # pyright: ignore[reportArgumentType]
        return self._checked(made)

    def chat(self, chats: Any, *, add_generation_prompt: bool = False, padding: str = "right") -> Tokens:
        """Conversations in the tokenizer's chat template; `tokens.turns` says where each turn lies.

        Args:
            chats: One conversation (a list of {"role", "content"}) or several.
            add_generation_prompt: End with the template's opening of the assistant's turn.
            padding: The side that shorter rows are padded on.
        """
        several = chats if chats and not isinstance(chats[0], dict) else [chats]
        made = conversation(self.tokenizer, several, add_generation_prompt=add_generation_prompt, padding=padding)
        return self._checked(made)

    def _checked(self, tokens: Tokens | Tensor) -> Tokens:
        made = tokens if isinstance(tokens, Tokens) else self.tokens(tokens)
        made.check(self.d_vocab, self.n_ctx)
        return made

    # -- running ---------------------------------------------------------------------------------------------------
    def run(
        self,
        tokens: Tokens | Int[Tensor, "batch pos"],
        *,
        read: Iterable[str | Site] = (),
        edits: Iterable[Edit] = (),
        stop: str | Site | None = None,
        logits: Logits = "all",
        at: Positions = None,
        grad: bool = False,
        batch_size: int | None = None,
        to: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        adapters: bool = True,
    ) -> Run:
        """One forward pass that reads and edits sites; reading never changes a logit.

        Args:
            tokens: What the model reads.
            read: Addresses to record, wildcards allowed.
            edits: Changes, in order (`digsite.add`, `digsite.ablate`, `digsite.patch` …), wildcards allowed.
            stop: End the pass at this site.
            logits: "all", the last k columns, or None (the pass then ends with its last read).
            at: Positions to record, absolute among a row's real tokens; None for all columns.
            grad: Keep everything on the autograd path: `torch.autograd.grad(metric, run[site])`.
            batch_size: Run this many rows at a time and join the results; memory stays bounded.
            to: Device to record on ("cpu").
            dtype: Dtype to record in.
            adapters: False switches LoRA adapters off for this run.

        Returns:
            The sites and the logits.

        Raises:
            NoSuchSite: The model lacks a site.
            SiteDidNotFire: A site was not reached.
            BadInput: Tokens that do not fit the model, or a choice of arguments that excludes another.
        """
        plan = self.plan(
            read=read, edits=edits, stop=stop, logits=logits, at=at, grad=grad, to=to, dtype=dtype, adapters=adapters
        )
        return self.execute(tokens, plan, batch_size=batch_size)

    def plan(
        self,
        *,
        read: Iterable[str | Site] = (),
        edits: Iterable[Edit] = (),
        stop: str | Site | None = None,
        logits: Logits = "all",
        at: Positions = None,
        grad: bool = False,
        to: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        adapters: bool = True,
    ) -> Plan:
        """The plan of a run, as data; see `run` for the arguments."""
        reads = self._reads(tuple(_several(read)))
        where = None if stop is None else self.anatomy.expand(stop)
        if where is not None and len(where) != 1:
            raise BadInput(explain(f"stop={stop} names several sites", do="name one"))
        return Plan(
            reads=reads,
            edits=tuple(one for edit in edits for one in self._expanded(edit)),
            stop=None if where is None else where[0],
            logits=None if where is not None else logits,
            at=at,
            grad=grad,
            to=None if to is None else str(to),
            dtype=None if dtype is None else str(dtype).removeprefix("torch."),
            adapters=adapters,
        )

    def _listed(self, addresses: tuple[str | Site, ...]) -> Reads:
        return Reads(site for address in addresses for site in self.anatomy.expand(address))

    def execute(self, tokens: Tokens | Tensor, plan: Plan, *, batch_size: int | None = None) -> Run:
        """Runs a plan; see `run`."""
        return execute(self, self._checked(tokens), plan, batch_size=batch_size)

    def instrumented(self, visit: Visit, *, adapters: bool = True) -> contextlib.AbstractContextManager:
        """The model with what one visit needs around it, and as it was when the block ends. Other threads wait."""
        return self.instrument.around(visit, adapters=adapters)

    def generate(
        self,
        tokens: Tokens | Int[Tensor, "batch pos"],
        *,
        max_new_tokens: int,
        edits: Iterable[Edit] = (),
        read: Iterable[str | Site] = (),
        sample: Sampling | None = None,
        stop_at: StopAt = "eos",
        logits: bool = False,
        adapters: bool = True,
    ) -> Generation:
        """Let the model write, with a KV cache, while sites are read and edited.

        Args:
            tokens: The prompts, of any lengths.
            max_new_tokens: Most tokens to add to a row.
            edits: Changes, in order. Positions count from a row's first token, negative ones from its prompt's end.
                A position is edited when a pass reads it; with at=None or slice(n, None) every new token is edited too.
            read: Addresses to record at the prompt and at every new token but the last, which no pass reads.
            sample: How tokens are drawn; None takes the most likely one each time.
            stop_at: The id or ids that end a row; "eos" for those the checkpoint names, None for no early end.
            logits: Keep the logits that each new token was chosen from.
            adapters: False switches LoRA adapters off for this generation.

        Raises:
            BadInput: Prompt and continuation exceed the context, or an edit lies where no pass reads.
            NoSuchSite: The model lacks a site.
            SiteDidNotFire: A site was not reached by one of the passes.

        Caveats:
            A row that ends before the others goes through the later passes as padding: mask it with
            `generation.run.tokens.mask`. An edit at a position that a row did not live to see does nothing to it.
        """
        plan = self.plan(read=read, edits=edits, adapters=adapters)
        return generate(
            self, self._checked(tokens), plan, new=max_new_tokens, sample=sample, stop_at=stop_at, logits=logits
        )

    def plain(self, tokens: Tokens) -> Float[Tensor, "batch pos vocab"]:
        """The logits of the Hugging Face model by itself: nothing read, and the attention that runs have."""
        kwargs = {"use_cache": False} if "use_cache" in self.takes else {}
        with self.instrument.plain(), torch.no_grad():
            return self.hf(**self.inputs(tokens), **kwargs).logits

    def verify(self, *, layers: Sequence[int] | None = None) -> Verification:
        """Measures on this model every contract that its sites rest on; the result shows itself as a table.

        Args:
            layers: The layers to look at; None for the first, a middle, the last, and one of every kind.
        """
        return verify(self, layers=layers)

    def memory(
        self,
        tokens: Tokens | Int[Tensor, "batch pos"] | tuple[int, int],
        *,
        read: Iterable[str | Site] = (),
        edits: Iterable[Edit] = (),
        stop: str | Site | None = None,
        logits: Logits = "all",
        at: Positions = None,
        grad: bool = False,
        batch_size: int | None = None,
        to: str | torch.device | None = None,
        max_new_tokens: int = 0,
        dtype: str | torch.dtype | None = None,
        device: str | None = None,
        budget: int | str | None = None,
    ) -> MemoryPlan:
        """What a run (or a generation) will hold in memory, and how to make it fit; nothing is run.

        Args:
            tokens: The rows, or their shape (rows, columns).
            read: As for `run`; so are edits, stop, logits, at, grad, batch_size and to.
            edits: Changes.
            stop: Where the pass ends.
            logits: Which columns of the logits.
            at: Positions to record.
            grad: With gradients of the logits (or of the last read) with respect to everything that is read.
            batch_size: Rows in a pass.
            to: Where the sites are recorded.
            max_new_tokens: Plan a generation of this many tokens.
            dtype: Plan for the model in this dtype; None for the one it has.
            device: Plan for this type of device ("cuda"); None for the one it is on.
            budget: What there is, such as "6GB"; the plan then says whether it suffices and else what would.

        Raises:
            BadInput: The tokens do not fit the model, or the budget is not an amount of memory.
            NoSuchSite: The model lacks a site.
        """
        tokens = self._checked(shape_only(*tokens) if isinstance(tokens, tuple) else tokens)
        plan = self.plan(read=read, edits=edits, stop=stop, logits=logits, at=at, grad=grad, to=to)
        where = device or ("cuda" if self.device.type == "meta" else self.device.type)
        return planned(
            self, tokens, plan, batch_size=batch_size, new=max_new_tokens, dtype=dtype, device=where, budget=budget
        )

    def inputs(self, tokens: Tokens, columns: slice = slice(None), rows: Tensor | None = None) -> dict[str, Any]:
        """The Hugging Face arguments for some columns (and rows) of a token grid: ids, and where it is padded mask
        and positions, without which left-padded rows would silently be read at wrong positions."""
        pick = (lambda x: x) if rows is None else (lambda x: x[rows])
        late = columns.start not in (None, 0)
        kwargs: dict[str, Any] = {"input_ids": pick(tokens.ids)[:, columns].to(self.device)}
        if tokens.padded or late:
            kwargs["attention_mask"] = pick(tokens.mask).to(self.device, torch.long)
            if "position_ids" in self.takes:
                kwargs["position_ids"] = pick(tokens.positions)[:, columns].to(self.device)
        return kwargs

    def readout(self, stream: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes vocab"]:
        """The logits that a residual stream would give: final norm, unembedding, logit scale and soft-cap."""
        return readout(self.hf, self.anatomy, stream)

    def visit(self, tokens: Tokens, plan: Plan, edits: Sequence[Edit]) -> Visit:
        """The state of one pass of a plan."""
        return Visit(
            plan.reads.heads,
            edits,
            tokens,
            grad=plan.grad,
            keep=plan.keeper(tokens),
            stop=None if plan.stop is None else key_of(plan.stop),
            stop_when_read=plan.logits is None and plan.stop is None,
            snapshots=self.snapshots,
            layer_of=self._layer_of,
        )

    # -- edits -----------------------------------------------------------------------------------------------------
    def _expanded(self, edit: Edit) -> list[Edit]:
        if edit.site.is_concrete and self.anatomy.has(key_of(edit.site)):
            self.anatomy.expand(edit.site)
            return [edit]
        return [replace(edit, site=site) for site in self.anatomy.expand(edit.site)]

    def resolved(self, edit: Edit, tokens: Tokens | None = None) -> Edit:
        """The same edit with its value measured, where it was to be measured on a corpus.

        Raises:
            BadInput: The edit is about rows that `tokens` does not have.
        """
        if tokens is not None:
            edit.check(tokens)
        return edit if edit.over is None else measure.resolved(self, edit, tokens)


def _several(addresses: Any) -> Iterable[str | Site]:
    return [addresses] if isinstance(addresses, str | Site) else addresses
