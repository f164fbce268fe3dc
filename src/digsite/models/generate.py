"""Generation with a KV cache: Hugging Face's own loop, read and edited at sites.

1. Prompts are padded on the left, so that every row goes on in the last column.
2. The positions of edits are settled once: negative ones count from the prompt's end, all others from its start.
3. `hf.generate` runs under one visit: the first pass reads the prompt, each later one the token that was chosen last.
4. After each pass every site must have fired, and what was recorded is put aside.
5. The parts are joined along the positions. A row that ended early is padding from there on.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NoReturn

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig

from digsite._core.cost import count_forward
from digsite._core.errors import BadInput, NoSuchSite, explain
from digsite.models.edits import Edit
from digsite.models.plan import Plan
from digsite.models.run import Run
from digsite.models.tokens import Tokens, pad_id
from digsite.models.visit import Key, Visit
from digsite.sites import SITES, Site

StopAt = int | Sequence[int] | Literal["eos"] | None


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn; without it the most likely one is taken.

    Attributes:
        temperature: Divides the logits; above 1 flattens the distribution.
        top_k: Draw among the k most likely tokens only.
        top_p: Draw among the most likely tokens that together hold this probability.
        seed: The same seed draws the same tokens; the global random state is left as it was.

    Caveats:
        The rows of a batch share one random stream, so a row draws other tokens in another batch.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            _cannot(f"temperature={self.temperature}", "above 0; for the most likely token use sample=None")
        if self.top_k is not None and self.top_k < 1:
            _cannot(f"top_k={self.top_k}", "1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            _cannot(f"top_p={self.top_p}", "above 0, at most 1")


def _cannot(asked: str, possible: str) -> NoReturn:
    raise BadInput(explain(f"{asked} cannot be sampled with", possible=possible))


@dataclass(frozen=True, eq=False)
class Generation:
    """What a model wrote, and what went on inside while it did.

    `generation["layers.5.resid_post"]` is a site over every token that the model read: the prompt and all that was
    generated but the last token, which no pass has read yet. Attention patterns and scores are as wide as that too
    (0 and -inf where a pass did not look).

    Attributes:
        tokens: The whole rows, padded on the left; where a row ended before the others, on the right too.
        prompt: The prompts alone, padded on the left.
        run: The sites, with the tokens that they belong to.
    """

    tokens: Tokens
    prompt: Tokens
    run: Run = field(repr=False)
    _logits: Tensor | None = field(default=None, repr=False)

    def __getitem__(self, address: str | Site) -> Tensor:
        """The tensor of a site over all positions that were read; see `Run`."""
        return self.run[address]

    @property
    def logits(self) -> Float[Tensor, "batch step vocab"]:
        """The logits that each new token was chosen from, after edits, before temperature and cuts.

        Raises:
            NoSuchSite: They were not asked for.
        """
        if self._logits is None:
            raise NoSuchSite(explain("This generation kept no logits", do="call model.generate(..., logits=True)"))
        return self._logits

    @cached_property
    def generated(self) -> list[list[int]]:
        """The ids that each row got, its stop token included."""
        width = self.prompt.ids.shape[1]
        rows = zip(self.tokens.ids[:, width:], self.tokens.mask[:, width:], strict=True)
        return [ids[mask].tolist() for ids, mask in rows]

    @cached_property
    def texts(self) -> list[str]:
        """What each row got as text, as it goes on from the prompt; special tokens are left out.

        Raises:
            BadInput: The model has no tokenizer.
        """
        tokenizer = self.tokens.tokenizer
        if tokenizer is None:
            raise BadInput(explain("This model has no tokenizer", do="use generation.generated, the ids"))
        made = []
        for ids, mask, new in zip(self.prompt.ids, self.prompt.mask, self.generated, strict=True):
            before, after = (_text(tokenizer, row) for row in (ids[mask].tolist(), ids[mask].tolist() + new))
            # Decoding the whole row keeps the space between prompt and answer, which some decoders drop.
            made.append(after[len(before) :] if after.startswith(before) else _text(tokenizer, new))
        return made

    def __repr__(self) -> str:
        return f"Generation of {len(self.tokens)} rows × {max(map(len, self.generated))} new tokens; {self.tokens!r}"


def generate(
    model: Any, tokens: Tokens, plan: Plan, *, new: int, sample: Sampling | None, stop_at: StopAt, logits: bool
) -> Generation:
    """Lets a model write; see `Model.generate`."""
    prompt = tokens.padded_left()
    _check_length(model, prompt, new)
    stops = _stops(model, stop_at)
    grid = _grid(prompt, new - 1)
    edits = [one for edit in plan.edits for one in _settled(model.resolved(edit, prompt), prompt, new)]
    visit = _Passes(model.visit(prompt, plan, ()), edits, grid, prompt.ids.shape[1])
    steps: list[Tensor] = []
    inputs: dict[str, Any] = {"inputs": prompt.ids.to(model.device)}
    inputs["attention_mask"] = prompt.mask.to(model.device, torch.long)
    inputs["generation_config"] = config = _config(prompt, new, sample, stops)
    # The loop itself needs the last column of the logits alone, and has no other made.
    whole = {"logits_to_keep": 0} if (None, "logits") in visit.reads and "logits_to_keep" in model.takes else {}

    def before(module: Any, args: Any, kwargs: Any) -> Any:
        count_forward(len(prompt))
        visit.begin()
        return args, {**kwargs, **whole}

    def after(module: Any, args: Any, output: Any) -> None:
        visit.put_aside()
        if logits:
            steps.append(output.logits[:, -1].clone())

    with contextlib.ExitStack() as stack:
        stack.enter_context(model.instrumented(visit, adapters=plan.adapters))
        stack.enter_context(_alone(model.hf, config))
        stack.enter_context(_seeded(model.device, sample))
        stack.callback(model.hf.register_forward_pre_hook(before, with_kwargs=True).remove)
        stack.callback(model.hf.register_forward_hook(after).remove)
        ids = model.hf.generate(**inputs).cpu()
    return _made(model, plan, prompt, ids, stops, visit, steps)


class _Passes(Visit):
    """A visit of many passes over one growing grid of columns."""

    def __init__(self, once: Visit, edits: Sequence[Edit], grid: Tokens, prompt: int):
        super().__init__(once.reads, edits, grid, snapshots=once.snapshots, layer_of=once.layer_of)
        self.prompt, self.end, self.new = prompt, 0, 0
        self.parts: dict[Key, list[Tensor]] = {}
        self.head_parts: dict[tuple[Key, int], list[Tensor]] = {}

    def begin(self) -> None:
        """A pass starts: the first over the prompt, each later one over one more column."""
        self.new = 1 if self.end else self.prompt
        self.end += self.new

    def put_aside(self) -> None:
        """A pass is over: each site must have fired, and its new columns are kept."""
        self.finish()
        for key, x in self.got.items():
            self.parts.setdefault(key, []).append(self._newest(key, x))
        for which, x in self.got_heads.items():
            self.head_parts.setdefault(which, []).append(self._newest(which[0], x))
        for state in (self.got, self.got_heads, self.fired, self.versions, self.scratch):
            state.clear()
        self.split = (None, ())

    def _newest(self, key: Key, x: Tensor) -> Tensor:
        axis = _position_axis(key[1], x)
        old = x.shape[axis] - self.new
        return x.narrow(axis, old, self.new).clone() if old else x

    def _selected(self, edit: Edit, x: Tensor) -> Tensor:
        # Most sites show the columns of this pass; keys show the cached ones too, and those must be edited every time.
        self.past = self.end - x.shape[_position_axis(edit.site.name, x)]
        return super()._selected(edit, x)

    def joined(self, columns: int) -> tuple[dict[Key, Tensor], dict[tuple[Key, int], Tensor]]:
        """Every site over the first `columns` columns."""
        values = {key: _join(key, self.parts.pop(key), columns) for key in list(self.parts)}
        heads = {which: _join(which[0], self.head_parts.pop(which), columns) for which in list(self.head_parts)}
        return values, heads


def _position_axis(name: str, x: Tensor) -> int:
    return x.ndim - 2 if "dst" in SITES[name].axes else 1


def _join(key: Key, parts: list[Tensor], columns: int) -> Tensor:
    axis = _position_axis(key[1], parts[0])
    if "src" in SITES[key[1]].axes:
        empty = 0.0 if key[1] == "attn.pattern" else -torch.inf
        end = 0
        for i, part in enumerate(parts):
            end += part.shape[axis]  # the columns that this pass could see end here, and may start late
            parts[i] = F.pad(part, (end - part.shape[-1], max(columns - end, 0)), value=empty)[..., :columns]
    return torch.cat(parts, axis).narrow(axis, 0, columns)


def _made(
    model: Any, plan: Plan, prompt: Tokens, ids: Tensor, stops: list[int], visit: _Passes, steps: list[Tensor]
) -> Generation:
    width, columns = prompt.ids.shape[1], ids.shape[1] - 1
    stopped = torch.isin(ids[:, width:], torch.tensor(stops, dtype=torch.long)).long()
    real = stopped.cumsum(1) - stopped == 0
    rows = replace(prompt, ids=ids, mask=torch.cat((prompt.mask, real), 1), texts=None)
    read = replace(rows, ids=rows.ids[:, :columns], mask=rows.mask[:, :columns])
    values, heads = visit.joined(columns)
    logits = torch.stack(steps[: ids.shape[1] - width], 1) if steps else None
    return Generation(rows, prompt, Run(read, plan, values, heads, model.anatomy), logits)


def _grid(prompt: Tokens, more: int) -> Tokens:
    """The columns that passes will read: the prompt's and `more` after it."""
    later = torch.ones(len(prompt), more, dtype=torch.bool)
    return Tokens(F.pad(prompt.ids, (0, more)), torch.cat((prompt.mask, later), 1))


def _settled(edit: Edit, prompt: Tokens, new: int) -> list[Edit]:
    """The same edit with every position counted from the prompt's start; several where rows differ in a slice."""
    at, lengths = edit.at, prompt.lengths
    if at is None:
        return [edit if edit.rows is None else replace(edit, at=slice(0, sys.maxsize))]
    if isinstance(at, slice):
        end = sys.maxsize if at.step is None or at.step > 0 else None  # with a stop, the grid says where it is
        bounds = [slice(_from_start(at.start, n), _from_start(at.stop, n, end), at.step) for n in lengths]
        if all(bound == bounds[0] for bound in bounds):
            return [replace(edit, at=bounds[0])]
        if edit.op == "swap":
            raise BadInput(
                explain(
                    f"A swap at {edit.site} needs the same positions in every row", found=f"at={at}, prompts differ"
                )
            )
        chosen = range(len(lengths)) if edit.rows is None else edit.rows
        return [replace(edit, at=bounds[row], rows=(row,)) for row in chosen]
    asked = torch.as_tensor(at) if isinstance(at, int | Tensor) else torch.tensor(list(at))
    of_rows = isinstance(at, Tensor) and at.ndim > 0
    ends = torch.tensor(lengths).reshape(-1, *[1] * (asked.ndim - of_rows))
    settled = torch.where(asked < 0, asked + ends, asked)
    _check_positions(edit, settled, lengths, new)
    return [replace(edit, at=settled if of_rows or bool((asked < 0).any()) else at)]


def _from_start(bound: int | None, length: int, none: int | None = None) -> int | None:
    return none if bound is None else bound if bound >= 0 else max(bound + length, 0)


def _check_positions(edit: Edit, settled: Tensor, lengths: list[int], new: int) -> None:
    last = torch.tensor(lengths).reshape(-1, *[1] * (settled.ndim - 1)) + new - 2
    wrong = settled[(settled < 0) | (settled > last)]
    if wrong.numel():
        raise BadInput(
            explain(
                f"The edit at {edit.site} is at position {int(wrong[0])}, which no pass reads",
                found=f"prompts of {min(lengths)} to {max(lengths)} tokens and {new} new ones, the last never read",
                possible=f"0 to {min(lengths) + new - 2}, or negative ones from the prompt's end",
            )
        )


def _check_length(model: Any, prompt: Tokens, new: int) -> None:
    if new < 1:
        raise BadInput(explain(f"max_new_tokens={new} generates nothing", possible="1 or more"))
    longest = max(prompt.lengths)
    if model.n_ctx is not None and longest + new > model.n_ctx:
        raise BadInput(
            explain(
                "The prompt and its continuation are longer than the model's context",
                found=f"{longest} tokens and {new} new ones",
                possible=f"at most {model.n_ctx} together",
                do=f"ask for max_new_tokens={model.n_ctx - longest} or fewer"
                if longest < model.n_ctx
                else "shorten the prompt",
            )
        )


def _stops(model: Any, stop_at: StopAt) -> list[int]:
    """The ids that end a row; for "eos" those that the checkpoint, or else the tokenizer, names."""
    if stop_at == "eos":
        own = (getattr(model.hf, "generation_config", None), model.hf.config.get_text_config(), model.tokenizer)
        stop_at = next((ids for one in own if (ids := getattr(one, "eos_token_id", None)) is not None), None)
    if stop_at is None:
        return []
    return [stop_at] if isinstance(stop_at, int) else [int(token) for token in stop_at]


def _config(prompt: Tokens, new: int, sample: Sampling | None, stops: list[int]) -> GenerationConfig:
    drawn: dict[str, Any] = {"do_sample": False}
    if sample is not None:
        # 0 and 1 switch the cuts off; left out they would be Hugging Face's own, 50 and 1.
        drawn = {"do_sample": True, "temperature": sample.temperature}
        drawn |= {"top_k": sample.top_k or 0, "top_p": 1.0 if sample.top_p is None else sample.top_p}
    return GenerationConfig(
        max_new_tokens=new, eos_token_id=stops or None, pad_token_id=pad_id(prompt.tokenizer), use_cache=True, **drawn
    )


@contextlib.contextmanager
def _alone(hf: Any, config: GenerationConfig) -> Iterator[None]:
    """This config and nothing that a checkpoint adds to it (penalties, cuts), for the length of the block."""
    before = hf.generation_config
    hf.generation_config = config
    try:
        yield
    finally:
        hf.generation_config = before


@contextlib.contextmanager
def _seeded(device: torch.device, sample: Sampling | None) -> Iterator[None]:
    """A random stream of its own; the global one is as it was when the block ends."""
    if sample is None:
        yield
        return
    accelerators = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(accelerators, device_type="cuda" if device.type == "cpu" else device.type):
        torch.manual_seed(sample.seed)
        yield


def _text(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
