"""Whether a loaded model keeps the contracts that its sites rest on: measured on the model, in a few forward passes.

1. The layers to look at: the first, a middle and the last, and one of every other kind.
2. Sites that the model overwrites in place after they were passed on are found, and snapshotted from then on.
3. All sites are read in one pass, all written back in another; both must leave the logits bit for bit.
4. What was read in each layer is held against the other sites, the weights and the formulas (see `contracts`).
5. Two passes with a row for every site: an edit in the middle of a row changes its logits from there on, and none
   before.

`load` does this once for each version of everything that could matter; see `verdicts`.
"""

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from digsite._core.errors import ContractBroken, DigsiteError, explain
from digsite.models import verdicts
from digsite.models.block import Block
from digsite.models.contracts import MEANING, Contract, Layer, judged, largest, layer_contracts, norm_contract, rounding
from digsite.models.edits import Edit
from digsite.models.tokens import Tokens
from digsite.models.visit import Key, address
from digsite.sites import SITES, Site

_COLUMNS, _ROWS, _EDITED = 6, 2, 2  # the edited position is neither the first nor the last


@dataclass(frozen=True)
class Verification:
    """What was measured of each contract in each layer that was looked at.

    Attributes:
        model: What was checked.
        contracts: Every measurement.
        snapshots: Names of sites that the model overwrites in place, copied when they are read.
    """

    model: str
    contracts: tuple[Contract, ...]
    snapshots: tuple[str, ...] = ()

    @property
    def failed(self) -> list[Contract]:
        """The measurements that rounding does not account for."""
        return [contract for contract in self.contracts if not contract.passed]

    @property
    def passed(self) -> bool:
        """Whether every contract holds that applies."""
        return not self.failed

    def table(self) -> Table:
        """One line a contract: where it was looked at, the worst difference, what rounding may account for."""
        held = "keeps every contract" if self.passed else f"breaks {len({c.name for c in self.failed})} contracts"
        table = Table("contract", "layers", "difference", "allowed", "", title=f"{self.model} {held}", box=box.SIMPLE)
        for name in MEANING:
            rows = [contract for contract in self.contracts if contract.name == name]
            measured = [row for row in rows if row.difference is not None]
            if not rows:
                continue
            if not measured:
                table.add_row(name, "–", "–", "–", Text(f"does not apply: {rows[0].note}"))
                continue
            worst = max(measured, key=lambda row: (not row.passed, _share(row)))
            layers = ", ".join(str(layer) for layer in sorted({row.layer for row in measured if row.layer is not None}))
            verdict = "holds" if worst.passed else f"BROKEN: {worst.note or MEANING[name]}"
            table.add_row(name, layers or "all", _number(worst.difference), _number(worst.tolerance), Text(verdict))
        if self.snapshots:
            table.caption = f"copied when read, because the model overwrites them: {', '.join(self.snapshots)}"
        return table

    def __repr__(self) -> str:
        console = Console(file=io.StringIO(), width=110)
        console.print(self.table())
        return console.file.getvalue().rstrip()  # pyright: ignore[reportAttributeAccessIssue]


def _number(value: float | None) -> str:
    return f"{value:.1e}" if value else "0"


def _share(contract: Contract) -> float:
    """How much of its allowance a measurement uses up."""
    if not contract.difference:
        return 0.0
    return contract.difference / contract.tolerance if contract.tolerance else math.inf


def check_once(model: Any, alive: Callable[[], Any]) -> None:
    """Verifies a model unless one like it passed before with the same versions of everything.

    Args:
        model: A `Model`.
        alive: Makes a model like it with other weights, none of them zero. Contracts are those of the architecture:
            where nothing can be seen because a part is dead in these weights, they are measured there.

    Raises:
        ContractBroken: A contract does not hold; says which, where, by how much, and what that means.
    """
    key = verdicts.key(model)
    snapshots = verdicts.passed(key)
    if snapshots is not None:
        model.snapshots = _in_every_layer(model, snapshots)
        return
    found = verify(model)
    if found.failed and all(contract.name == "causal" and contract.difference == math.inf for contract in found.failed):
        found = verify(alive())
    if not found.passed:
        raise ContractBroken(_explained(model, found))
    verdicts.remember(key, found.snapshots)


def verify(model: Any, *, layers: Sequence[int] | None = None) -> Verification:
    """Measures every contract on a model.

    Args:
        model: A `Model`; what it overwrites in place is snapshotted from now on.
        layers: The layers to look at; None for the first, a middle, the last, and one of every kind.
    """
    blocks = _chosen(model) if layers is None else [model.anatomy.blocks[layer] for layer in layers]
    sites = [site for site in model.sites if site.layer is None or site.layer in {block.index for block in blocks}]
    tokens = _probe(model, _ROWS)
    with torch.no_grad():
        try:
            snapshots = _overwritten(model, tokens, sites)
            model.snapshots = _in_every_layer(model, snapshots)
            contracts = [*_exact(model, tokens, sites), *_measured(model, tokens, sites, blocks)]
            contracts += _causal(model, [block for block in blocks if block in _one_of_each_kind(model)])
        except torch.OutOfMemoryError:
            raise
        except (DigsiteError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            note = " ".join(str(error).split())[:200]
            return Verification(model.name, (Contract("fires", None, math.inf, note=note),))
    return Verification(model.name, (Contract("fires", None, 0.0), *contracts), tuple(snapshots))


# -- what is looked at ---------------------------------------------------------------------------------------------
def _chosen(model: Any) -> list[Block]:
    blocks = model.anatomy.blocks
    ends = [blocks[0], blocks[len(blocks) // 2], blocks[-1]]
    return sorted({block.index: block for block in (*ends, *_one_of_each_kind(model))}.values(), key=lambda b: b.index)


def _one_of_each_kind(model: Any) -> list[Block]:
    kinds: dict[Any, Block] = {}
    for block in model.anatomy.blocks:
        served = frozenset(site.name for site in model.sites if site.layer == block.index)
        window = [getattr(block.attn, name, None) for name in ("sliding_window", "attention_type", "is_sliding")]
        types = frozenset((name, type(part)) for name, part in block.parts.items())
        kinds.setdefault((type(block.module), type(block.attn), types, served, str(window)), block)
    return list(kinds.values())


def _probe(model: Any, rows: int) -> Tokens:
    """Rows of seeded ids; every row the same where there are more than a few."""
    width = min(_COLUMNS, model.n_ctx or _COLUMNS)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(model.d_vocab, (min(rows, _ROWS), width), generator=draw)
    ids = ids if rows <= _ROWS else ids[:1].repeat(rows, 1)
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool), bos="none")


def _overwritten(model: Any, tokens: Tokens, sites: list[Site]) -> list[str]:
    """Names of sites whose tensor the model changed after passing it on."""
    model.snapshots = frozenset()
    visit = model.visit(tokens, model.plan(read=sites), ())
    with model.instrumented(visit):
        model.hf(**model.inputs(tokens), **({"use_cache": False} if "use_cache" in model.takes else {}))
    return sorted({name for _, name in visit.overwritten()}, key=list(SITES).index)


def _in_every_layer(model: Any, names: Iterable[str]) -> frozenset[Key]:
    return frozenset((layer, name) for name in names for layer in (None, *range(model.n_layers)))


# -- measuring -----------------------------------------------------------------------------------------------------
def _exact(model: Any, tokens: Tokens, sites: list[Site]) -> list[Contract]:
    """Reading, and writing back, against the model alone."""
    alone = model.plain(tokens)
    same = [Edit(site=site, op="apply", function=lambda x: x * 1.0) for site in sites]
    read = model.run(tokens, read=sites).logits
    written = model.run(tokens, edits=same).logits
    return [
        Contract("reads", None, _gap(read, alone)),
        Contract("writes", None, _gap(written, alone)),
    ]


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


def _measured(model: Any, tokens: Tokens, sites: list[Site], blocks: list[Block]) -> list[Contract]:
    """What was read, against everything it must agree with."""
    last = Site("resid_post", model.n_layers - 1)
    first = Site("resid_pre", 0)
    run = model.run(tokens, read=[*sites, first, last])
    found = [contract for block in blocks for contract in layer_contracts(Layer(model, block, run))]
    terms = [run[name].float() for name in ("embed", "pos_embed") if model.anatomy.has((None, name))]
    allowed = 4 * rounding(run[first]) * torch.stack([term.abs() for term in terms]).sum(0)
    found.append(judged("embedding", None, sum(terms), run[first], allowed))  # pyright: ignore[reportArgumentType]
    if model.anatomy.has((None, "final.norm.scale")):
        norm, seen = model.anatomy.final_norm, run["final.norm"]
        found.append(norm_contract(None, norm, run[last], run["final.norm.scale"], seen))
    made = model.readout(run[last].to(model.device))
    found.append(judged("readout", None, made, run.logits, 8 * rounding(run.logits) * largest(made)))
    return found


def _causal(model: Any, blocks: list[Block]) -> list[Contract]:
    """One row for every site, edited there at one position."""
    layers = {None, *(block.index for block in blocks)}
    sites = [_one_head(model, site) for site in model.sites if site.layer in layers]
    tokens = _probe(model, max(len(sites), _ROWS + 1))
    at = min(_EDITED, tokens.ids.shape[1] - 1)
    edits = [Edit(site=site, op="apply", function=_shaken, at=at, rows=(row,)) for row, site in enumerate(sites)]
    before, after = (model.run(tokens, edits=some).logits.float().cpu() for some in ([], edits))
    change = (after - before).abs().amax(-1)
    allowed = 16 * rounding(before) * float(before.abs().max())
    found = []
    for row, site in enumerate(sites):
        layer = site.layer if isinstance(site.layer, int) else None
        early, late = float(change[row, :at].max()) if at else 0.0, float(change[row, at:].max())
        name = address((layer, site.name))
        if not late > 0:
            found.append(Contract("causal", layer, math.inf, allowed, f"editing {name} does not change a logit"))
        else:
            note = f"editing {name} at position {at} changes earlier logits" if not early <= allowed else ""
            found.append(Contract("causal", layer, early, allowed, note))
    return found


def _one_head(model: Any, site: Site) -> Site:
    """Per-head inputs are edited at their last head, so that they are never formed for all heads of all rows."""
    if not site.name.endswith("_in") or not site.name.startswith("attn."):
        return site
    count = model.n_heads if site.name == "attn.q_in" else model.n_kv_heads
    return Site(site.name, site.layer, count - 1)


def _shaken(x: Tensor) -> Tensor:
    """Another value of the same size. Masked scores stay masked, and scales stay positive."""
    if x.shape[-1] == 1:
        return x * 1.5
    draw = torch.Generator().manual_seed(1)
    noise = torch.randn(x.shape, generator=draw).to(device=x.device, dtype=x.dtype)
    size = x.float().abs().clamp(max=1e3).pow(2).mean().sqrt().to(x.dtype)
    return x + noise * (size if bool(size > 0) else 1.0)


def _explained(model: Any, found: Verification) -> str:
    """The error of a model that breaks contracts, the worst place of each named."""
    worst: dict[str, Contract] = {}
    for contract in found.failed:
        if contract.name not in worst or _share(contract) > _share(worst[contract.name]):
            worst[contract.name] = contract
    lines = []
    for name, contract in worst.items():
        where = "" if contract.layer is None else f" in layer {contract.layer}"
        by = f"{contract.difference:.2g} where {contract.tolerance:.2g} is allowed"
        lines.append(f"{name}{where}, {by}: {contract.note or MEANING[name]}")
    kind = model.hf.config.get_text_config().model_type
    stranger = "" if model.anatomy.in_table else f"; digsite has no entry for {kind} and tried Llama's layout"
    return explain(
        f"{model.name} ({kind}) breaks {len(worst)} of the contracts that its sites rest on{stranger}",
        found="; ".join(lines),
        do="open an issue with the model's config; load(..., verify=False) and model.verify() show the whole table",
    )
