"""`digsite model`: what a model is, and whether its sites can be trusted."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cyclopts import App

from digsite.cli.inputs import AS_STORED, Loading, ModelName
from digsite.cli.outputs import Json, answers, columns, facts, print_json
from digsite.sites import SITES, SiteKind
from digsite.sites.table import transformer_lens_hooks

if TYPE_CHECKING:
    from digsite import Model

_OF_PROMPTS = ("batch", "pos", "dst", "src")
"""Axes whose sizes the prompts decide."""

_LABELS = {"bytes": "memory of weights", "n_ctx": "context"}

app = App(name="model", help="What a model is, and whether its sites can be trusted.")


@app.command
def info(model: ModelName, /, *, json: Json = False, loading: Loading = AS_STORED) -> None:
    """What a model is: its sizes, its memory, the sites it serves and those it refuses, with reasons."""
    loaded = loading.load(model, verify=False)
    told, sites = _facts(loaded), _sites(loaded)
    if json:
        print_json(told | {"sites": sites})
        return
    table = columns("site", "layers", "shape, or why it is refused", left=3)
    for site in sites:
        layers = "" if site["layers"] is None else _counted(site["layers"], loaded.n_layers)
        table.add_row(site["site"], layers, site["refused"] or _shape(site))
    out = answers()
    out.print(facts((_LABELS.get(name, name.replace("_", " ")), _said(name, value)) for name, value in told.items()))
    out.print()
    out.print(table)


@app.command
def verify(model: ModelName, /, *, json: Json = False, loading: Loading = AS_STORED) -> int:
    """Measures the contracts that a model's sites rest on; exit code 1 if one is broken."""
    loaded = loading.load(model, verify=False)
    found = loaded.verify()
    if json:
        contracts = [asdict(contract) | {"passed": contract.passed} for contract in found.contracts]
        told = {"model": found.model, "passed": found.passed, "contracts": contracts}
        print_json(told | {"snapshots": list(found.snapshots)})
    else:
        answers().print(found.table())
    return 0 if found.passed else 1


def _facts(model: "Model") -> dict[str, Any]:
    parameters = list(model.hf.parameters())
    return {
        "model": model.name,
        "architecture": model.hf.config.get_text_config().model_type,
        "revision": model.revision,
        "fingerprint": model.fingerprint,
        "n_layers": model.n_layers,
        "n_heads": model.n_heads,
        "n_kv_heads": model.n_kv_heads,
        "d_model": model.d_model,
        "d_head": model.d_head,
        "d_vocab": model.d_vocab,
        "n_ctx": model.n_ctx,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "bytes": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "attention": model.attention,
        "tokenizer": None if model.tokenizer is None else type(model.tokenizer).__name__,
    }


def _sites(model: "Model") -> list[dict[str, Any]]:
    """Every kind of site: the layers that serve it and its shape there, or why none does."""
    first = {site.name: site for site in reversed(model.sites)}
    run = model.run(model.tokens([[0, 1]]), read=list(first.values()))
    hooks = transformer_lens_hooks(gated=model.anatomy.gated)
    found = []
    for name, kind in SITES.items():
        reasons = [why for (_, refused), why in model.anatomy.refused.items() if refused == name]
        layers = [site.layer for site in model.sites if site.name == name]
        found.append(
            {
                "site": f"layers.*.{name}" if kind.per_layer else name,
                "layers": layers if kind.per_layer else None,
                "axes": list(kind.axes),
                "shape": _sizes(kind, run[first[name]].shape) if name in first else None,
                "transformer_lens": hooks.get(name),
                "refused": None if name in first else (reasons or ["no such part"])[0],
                "meaning": kind.meaning,
            }
        )
    return found


def _sizes(kind: SiteKind, shape: Sequence[int]) -> list[int | None]:
    """The sizes that the model decides; None for those that the prompts decide."""
    return [None if axis in _OF_PROMPTS else size for axis, size in zip(kind.axes, shape, strict=True)]


def _shape(site: dict[str, Any]) -> str:
    sizes = zip(site["axes"], site["shape"], strict=True)
    return " ".join(axis if size is None or axis == "1" else f"{axis}={size}" for axis, size in sizes)


def _counted(layers: Sequence[int], total: int) -> str:
    if len(layers) in (0, total):
        return "all" if layers else "none"
    return f"{len(layers)} of {total}"


def _said(name: str, value: Any) -> str:
    if value is None:
        return {"n_ctx": "no limit stated"}.get(name, "none")
    if name == "bytes":
        return f"{value / 1e6:,.1f} MB"
    return f"{value:,}" if isinstance(value, int) else str(value)
