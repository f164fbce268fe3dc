"""Circuits in the files of EAP-IG and of the MIB benchmark, read and written.

A file names the writers `input`, `a3.h5` and `m3`, the readers `a3.h5<q>`, `a3.h5<k>`, `a3.h5<v>`, `m3` and `logits`,
and an edge `m2->a3.h5<q>`; for each edge it has a score and whether the circuit keeps it. `.json` holds them by name,
`.pt` as arrays in this order.

Two things differ from `EdgeSpace`:
1. Keys and values have a reader for each query head there, and one for each key/value head here. What is read is summed
   over the query heads that share one, and kept if any of them keeps it; what is written is repeated for each of them,
   with its score divided equally. So ours is read back as it was, and theirs only where the group agreed.
2. Learned positions (`pos_embed`) have no name there. Their edges are left out of a file, which says how many of the
   circuit's these were (`digsite.left_out`); what is read keeps none of them, and has no score for them.
"""

import io
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from digsite._core.errors import BadInput, LoadError, NotFinite, Unsupported, explain
from digsite._core.files import write_whole
from digsite._core.provenance import record
from digsite.graphs.circuit import Circuit, circuit
from digsite.graphs.edges import EdgeSpace, edge_space, owners
from digsite.models import Model, made_by

KEYS = {
    ".json": ("cfg", "nodes", "edges"),
    ".pt": ("cfg", "src_nodes", "dst_nodes", "edges_scores", "edges_in_graph", "nodes_in_graph"),
}
SHOWN = 5
"""Names in a message."""


def read_mib(path: str | Path, model: Model | EdgeSpace, *, positive: str = "helps") -> Circuit:
    """The circuit in a file of EAP-IG or MIB, about a model here.

    Args:
        path: A .json or .pt file. A .pt file is read with `weights_only=True`; nothing in it is executed.
        model: The model that the circuit is of, or its edges.
        positive: What an edge with a positive score does, which a file does not say: "helps" where EAP-IG was given a
            loss, as the benchmark does; "hurts" where it was given a metric, as for the published circuit of GPT-2 on
            IOI. The scores of the latter are turned round, for a positive score of ours helps.

    Returns:
        The circuit with the file's scores; see the head of this file for what differs. Edges that dangle stay.

    Raises:
        LoadError: The file is broken, or lacks a part, or names what is no edge of the model.
        BadInput: The file is of another model, its ending is neither .json nor .pt, or `positive` is no choice.
        NotFinite: A score is NaN or infinite.
        Unsupported: The circuit keeps single neurons, which is no choice of edges.
    """
    path = Path(path)
    if positive not in ("helps", "hurts"):
        raise BadInput(explain(f"A positive score cannot be said to {positive!r}", possible=("helps", "hurts")))
    content = _content(path)
    space = model if isinstance(model, EdgeSpace) else edge_space(model)
    names = _Names(space)
    _same_model(path, content["cfg"], names, None if isinstance(model, EdgeSpace) else model.d_model)
    _whole_nodes(path, content)
    scores, kept = (_from_names if path.suffix.lower() == ".json" else _from_arrays)(path, content, names)
    if not bool(scores[names.real].isfinite().all()):
        i, j = (names.real & ~scores.isfinite()).nonzero()[0].tolist()
        raise NotFinite(explain(f"A score in {path} is no number", found=f"{names.edge(i, j)}: {scores[i, j]:g}"))
    call = f"digsite.graphs.read_mib({str(path)!r}, model)"
    ours = content.get("digsite") or {}
    return circuit(
        space,
        names.gather(kept.float()) > 0,
        name=str(ours.get("name", path.stem)),
        method=str(ours.get("method", path.name)),
        provenance=record(call) if isinstance(model, EdgeSpace) else made_by(call, model),
        scores=names.gather(scores if positive == "helps" else -scores, without=torch.nan),
    )


def write_mib(circuit: Circuit, path: str | Path, *, d_model: int = 0) -> Path:
    """Write a circuit as a file that EAP-IG and MIB read.

    Args:
        circuit: The circuit; see the head of this file for what differs. An edge that nothing scored is written with
            the score 1 where the circuit keeps it and 0 where not, so that a reader who goes by scores finds the same.
            The files know no places: an edge that is kept at some place is kept, with the sum of its scores.
        path: A .json or .pt file.
        d_model: The width of the model's stream, which the file states and a circuit does not know. Only readers of
            single neurons use it.

    Returns:
        The path.

    Raises:
        BadInput: The ending is neither .json nor .pt.
    """
    path = Path(path)
    _known_ending(path)
    names = _Names(circuit.space)
    kept = circuit.anywhere
    scores = circuit.scores.sum(0) if circuit.places else circuit.scores
    scores = torch.where(scores.isnan(), kept.float(), scores)
    left_out = int(kept.sum() - kept[names.rows].sum())
    scores, kept = names.spread(scores / names.sharing), names.spread(kept)
    nodes = _nodes_kept(circuit)[names.rows]
    content: dict[str, Any] = {"cfg": {**names.config, "d_model": d_model}}
    ours = {"digsite": {"name": circuit.name, "method": circuit.method, "left_out": left_out}}
    if path.suffix.lower() == ".pt":
        arrays = {"edges_scores": scores, "edges_in_graph": kept, "nodes_in_graph": nodes}
        written = io.BytesIO()
        content |= {"src_nodes": names.sources, "dst_nodes": names.readers, **arrays, **ours}
        torch.save(content, written)  # noqa: TID251 - the format of others; tensors and plain values alone
        return write_whole(path, written.getvalue())
    content["nodes"] = {
        name: {"in_graph": flag} for name, flag in zip((*names.sources, "logits"), (*nodes.tolist(), True), strict=True)
    }
    flags, values = kept.tolist(), scores.tolist()
    content["edges"] = {name: {"score": values[i][j], "in_graph": flags[i][j]} for name, (i, j) in names.places.items()}
    return write_whole(path, json.dumps({**content, **ours}))


class _Names:
    """The names of a model's edges in the file, and where each stands in our arrays.

    Attributes:
        rows: Which of our writers the file knows.
        columns: Which of our readers each of the file's is.
        sources: The file's names of writers.
        readers: The file's names of readers.
    """

    def __init__(self, space: EdgeSpace):
        self.space = space
        self.rows = torch.tensor([i for i, name in enumerate(space.writers) if name != "pos_embed"])
        self.sources = [_source(space.writers[i]) for i in self.rows.tolist()]
        self.readers: list[str] = []
        columns: list[int] = []
        for j, reader in enumerate(space.readers):
            part = re.search(r"\.([qkv])_in\[", reader)
            of = [_source(name) + (f"<{part[1]}>" if part else "") for name in owners(reader, space.groups)]
            self.readers += of or ["logits"]
            columns += [j] * max(1, len(of))
        self.columns: Int[Tensor, " reader"] = torch.tensor(columns)

    @property
    def config(self) -> dict[str, Any]:
        """The model as the file states it."""
        space = self.space
        layers = sum(name.endswith("mlp.in") for name in space.readers)
        mlp, query = (space.readers.index(f"layers.0.{name}") for name in ("mlp.in", "attn.q_in[0]"))
        return {
            "n_layers": layers,
            "n_heads": sum(".q_in[" in name for name in space.readers) // layers,
            "parallel_attn_mlp": space.before[mlp] == space.before[query],
        }

    @cached_property
    def real(self) -> Bool[Tensor, "writer reader"]:
        """Which pairs of the file are edges."""
        return self.spread(self.space.real)

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """Every edge by name, and where it stands in the file's arrays."""
        return {self.edge(i, j): (i, j) for j, i in self.real.T.nonzero().tolist()}

    def edge(self, i: int, j: int) -> str:
        """The name of an edge."""
        return f"{self.sources[i]}->{self.readers[j]}"

    @property
    def sharing(self) -> Float[Tensor, " reader"]:
        """How many readers of the file each of ours is."""
        return self.columns.bincount(minlength=len(self.space.readers)).float()

    def spread(self, ours: Tensor) -> Tensor:
        """Our array as the file has it."""
        return ours[self.rows][:, self.columns]

    def gather(self, theirs: Tensor, *, without: float = 0.0) -> Tensor:
        """The file's array as we have it, summed over query heads that share a key or value.

        Args:
            theirs: The file's.
            without: What our edges get that the file cannot name.
        """
        found = torch.full((len(self.space.writers), len(self.space.readers)), without)
        none = torch.zeros(len(self.rows), len(self.space.readers))
        found[self.rows] = none.index_add(1, self.columns, torch.where(self.real, theirs.float(), 0.0))
        return found


def _source(writer: str) -> str:
    if writer == "embed":
        return "input"
    layer, head = re.findall(r"\d+", writer) if "attn" in writer else (writer.split(".")[1], None)
    return f"m{layer}" if head is None else f"a{layer}.h{head}"


def _nodes_kept(circuit: Circuit) -> Bool[Tensor, " writer"]:
    """Which writers the circuit flows through: an edge goes in, unless it is an embedding, and an edge goes out."""
    embeds = torch.tensor(["layers" not in name for name in circuit.writers])
    entered = (circuit.space.inputs & circuit.anywhere.any(0)).any(1)
    return circuit.anywhere.any(1) & (embeds | entered)


# -- reading -----------------------------------------------------------------------------------------------------------
def _known_ending(path: Path) -> None:
    if path.suffix.lower() not in KEYS:
        asked = f"{path} cannot be a circuit of EAP-IG or MIB"
        raise BadInput(explain(asked, found=path.suffix or "no ending", possible=tuple(KEYS)))


def _content(path: Path) -> dict[str, Any]:
    """The parts of a file."""
    _known_ending(path)
    try:
        if path.suffix.lower() == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a broken file makes json and torch raise is no fixed list
        raise LoadError(explain(f"The circuit file {path} cannot be read", found=str(error).split("\n")[0])) from error
    wanted = KEYS[path.suffix.lower()]
    missing = [key for key in wanted if key not in content] if isinstance(content, dict) else list(wanted)
    if not missing and not all(isinstance(content[key], dict) for key in ("cfg", "edges") if key in content):
        missing = ["cfg and edges by name"]
    if missing:
        found = ", ".join(map(str, content)) if isinstance(content, dict) else f"a {type(content).__name__}"
        asked = f"{path} is no circuit of EAP-IG or MIB: it lacks {', '.join(missing)}"
        raise LoadError(explain(asked, found=found, do="digsite's own folders are read by digsite.load_result"))
    return content


def _same_model(path: Path, config: dict[str, Any], names: _Names, d_model: int | None) -> None:
    ours = names.config
    if d_model is not None and config.get("d_model"):  # 0 is what `write_mib` writes when it does not know
        ours |= {"d_model": d_model}
    wrong = [key for key, value in ours.items() if config.get(key) != value]
    if wrong:
        raise BadInput(
            explain(
                f"The circuit in {path} belongs to another model",
                found=", ".join(f"{key} {config.get(key)}" for key in wrong),
                possible=", ".join(f"{key} {ours[key]}" for key in wrong) + " of this one",
            )
        )


def _whole_nodes(path: Path, content: dict[str, Any]) -> None:
    """Refuses circuits that keep a part of a node."""
    if "neurons_in_graph" in content:
        parts = [content["neurons_in_graph"]]
    else:
        parts = [torch.tensor(node["neurons"]) for node in content.get("nodes", {}).values() if "neurons" in node]
    if any(bool((~part.bool()).any()) for part in parts):
        raise Unsupported(
            explain(f"The circuit in {path} keeps some neurons of a node and not others", possible="whole edges")
        )


def _from_names(path: Path, content: dict[str, Any], names: _Names) -> tuple[Tensor, Tensor]:
    """Scores and flags, from edges by name."""
    edges, places = content["edges"], names.places
    strange = [name for name in content["nodes"] if name not in {*names.sources, "logits"}]
    strange += [name for name in edges if name not in places]
    missing = [name for name in places if name not in edges]
    broken = [name for name, edge in edges.items() if not _is_edge(edge)]
    _nothing_wrong(path, {"unknown": strange, "missing": missing, "without score or in_graph": broken}, names)
    scores, kept = torch.full(names.real.shape, 0.0), torch.zeros(names.real.shape, dtype=torch.bool)
    where = torch.tensor([places[name] for name in edges]).T
    scores[where[0], where[1]] = torch.tensor([float(edge["score"]) for edge in edges.values()])
    kept[where[0], where[1]] = torch.tensor([bool(edge["in_graph"]) for edge in edges.values()])
    return scores, kept


def _is_edge(edge: Any) -> bool:
    return isinstance(edge, dict) and isinstance(edge.get("score"), float | int) and "in_graph" in edge


def _from_arrays(path: Path, content: dict[str, Any], names: _Names) -> tuple[Tensor, Tensor]:
    """Scores and flags, from arrays whose order the file states. Flags of what is no edge, which EAP-IG may set, go."""
    sources, readers = list(content["src_nodes"]), list(content["dst_nodes"])
    strange = [name for name in sources if name not in names.sources]
    strange += [name for name in readers if name not in names.readers]
    missing = [name for name in names.sources if name not in sources]
    missing += [name for name in names.readers if name not in readers]
    _nothing_wrong(path, {"unknown": strange, "missing": missing}, names)
    arrays = content["edges_scores"], content["edges_in_graph"]
    wanted = (len(sources), len(readers))
    if wrong := [tuple(one.shape) for one in arrays if one.shape != wanted]:
        raise LoadError(explain(f"The circuit in {path} does not fit its own names", found=f"{wrong[0]}, not {wanted}"))
    order = (
        torch.tensor([sources.index(name) for name in names.sources]),
        torch.tensor([readers.index(name) for name in names.readers]),
    )
    scores, kept = (one[order[0]][:, order[1]] for one in arrays)
    return scores.float(), kept.bool()


def _nothing_wrong(path: Path, faults: dict[str, list[str]], names: _Names) -> None:
    if found := [f"{what}: {_listed(wrong)}" for what, wrong in faults.items() if wrong]:
        asked = f"The names in {path} are not those of the model's edges"
        possible = f"{len(names.places):,} edges such as {names.edge(0, 0)}"
        raise LoadError(explain(asked, found="; ".join(found), possible=possible))


def _listed(wrong: list[str]) -> str:
    return ", ".join(map(str, wrong[:SHOWN])) + (f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else "")
