"""`digsite circuit`: which edges do the work, found, tested, compared, made smaller, handed on."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from cyclopts import App, Parameter

from digsite._core.errors import BadInput, explain
from digsite.cli.inputs import AS_STORED, AS_USUAL, Count, Examples, Loading, ModelName, TaskName
from digsite.cli.needs import say_needs
from digsite.cli.outputs import (
    NOWHERE,
    Json,
    Saving,
    answers,
    columns,
    estimate,
    note,
    origin,
    print_json,
    print_saved,
    spent,
)

if TYPE_CHECKING:
    from digsite import Model, Task
    from digsite.circuits import CircuitJudgement
    from digsite.graphs import Circuit

app = App(name="circuit", help="Which edges of a model do the work: find, evaluate, roles, compare, minimise, export.")

How = Annotated[
    Literal["corrupt", "zero", "mean", "resample"], Parameter(help="What takes the place of an edge that is cut.")
]
Stored = Annotated[Path, Parameter(help="A folder that --out wrote, or a .json or .pt file of EAP-IG or MIB.")]
_SHOWN = 20
"""Edges of the table; --json and --out have all."""


class _Options(NamedTuple):
    size: int | float
    select: str
    at: str | list[str] | None
    steps: int
    threshold: float
    how: str
    seed: int


class _Finder(NamedTuple):
    """A way to a circuit.

    Attributes:
        find: From a model, its task and options to the circuit.
        rows: About how many rows it sends through the model: from the number of rows and of edges, and options. A
            backward pass counts as two forward ones.
    """

    find: Callable[["Model", "Task", _Options], "Circuit"]
    rows: Callable[[int, int, _Options], int]


def _eap(model: "Model", task: "Task", options: _Options) -> "Circuit":
    from digsite.circuits import eap

    return eap(model, task, at=options.at).circuit(options.size, select=options.select)


def _eap_ig(model: "Model", task: "Task", options: _Options) -> "Circuit":
    from digsite.circuits import eap_ig

    return eap_ig(model, task, steps=options.steps, at=options.at).circuit(options.size, select=options.select)


def _relp(model: "Model", task: "Task", options: _Options) -> "Circuit":
    from digsite.circuits import relp

    return relp(model, task, at=options.at).circuit(options.size, select=options.select)


def _acdc(model: "Model", task: "Task", options: _Options) -> "Circuit":
    from digsite.circuits import acdc

    return acdc(model, task, options.threshold, how=options.how, seed=options.seed)


FINDERS = {
    "eap": _Finder(_eap, lambda rows, edges, options: 5 * rows),
    "eap-ig": _Finder(_eap_ig, lambda rows, edges, options: (2 + 3 * options.steps) * rows),
    "relp": _Finder(_relp, lambda rows, edges, options: 5 * rows),
    "acdc": _Finder(_acdc, lambda rows, edges, options: (2 * edges + 4) * rows),
}
"""Every way to a circuit, by the name that the command takes."""


@app.command
def find(
    *,
    model: ModelName,
    task: TaskName,
    method: Literal["eap", "eap-ig", "relp", "acdc"] = "eap-ig",
    size: str | None = None,
    select: Literal["absolute", "signed", "greedy"] = "absolute",
    at: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    steps: Count = 5,
    threshold: float | None = None,
    how: How = "corrupt",
    examples: Examples = AS_USUAL,
    saving: Saving = NOWHERE,
    loading: Loading = AS_STORED,
) -> None:
    """Which edges do the work?

    Args:
        method: eap, eap-ig and relp score every edge with gradients; acdc cuts edges one by one and looks.
        size: Edges to keep: a number (144) or, with a point, a share of all (0.05). Not for acdc. 0.05 unless given.
        select: Which of the scored edges: the largest in size, the largest, or grown from the logits.
        at: Where scores are summed apart: each position, or spans of the task (S2 IO). Not for acdc.
        steps: Points on the path of eap-ig.
        threshold: Damage that acdc allows one cut to do, in nats. 0.01 unless given.
    """
    saving.check()
    wrong = {"--size": size, "--at": at} if method == "acdc" else {"--threshold": threshold}
    if given := [name for name, value in wrong.items() if value is not None]:
        raise BadInput(explain(f"The method {method} takes no {given[0]}", do="leave it out"))
    ask = examples.of(task)
    loaded = loading.load(model)
    asked = ask(loaded)
    from digsite.graphs import edge_space

    place = at[0] if at is not None and len(at) == 1 else at
    kept = 0.05 if size is None else _size(size)
    options = _Options(kept, select, place, steps, 0.01 if threshold is None else threshold, how, examples.seed)
    finder = FINDERS[method]
    say_needs(loaded, asked, finder.rows(len(asked.clean), len(edge_space(loaded)), options))
    _show_circuit(finder.find(loaded, asked, options), saving, {"model": loaded.name, "task": asked.summary()})


@app.command
def evaluate(
    circuit: Stored,
    /,
    *,
    model: ModelName,
    task: TaskName,
    how: How = "corrupt",
    semantics: Literal["tree", "edge"] = "tree",
    side_by_side: Annotated[bool, Parameter(negative=())] = False,
    minimality: Annotated[bool, Parameter(negative=())] = False,
    random_circuits: Count = 10,
    examples: Examples = AS_USUAL,
    saving: Saving = NOWHERE,
    loading: Loading = AS_STORED,
) -> None:
    """How much of the behaviour does a circuit keep by itself, beside random circuits of its size?

    Args:
        semantics: tree runs the clean prompt and cuts what is not in the circuit; edge runs the corrupt prompt and puts
            the clean value on each edge of the circuit.
        side_by_side: Cut in every other way too.
        minimality: Leave out each edge by itself and say what it was worth.
        random_circuits: How many random circuits it is compared with.
    """
    from digsite.circuits.judgement import WAYS, judge_circuit

    saving.check()
    ask = examples.of(task)
    loaded = loading.load(model)
    asked = ask(loaded)
    found = read_circuit(circuit, loaded)
    first = (how, semantics)
    ways = [first, *(way for way in WAYS if way != first)] if side_by_side else [first]
    masks = len(ways) * (random_circuits + 7) + (len(found) if minimality else 0)
    say_needs(loaded, asked, masks * len(asked.clean))
    judged = judge_circuit(
        loaded,
        asked,
        found,
        ways=ways,
        minimality=minimality,
        random_circuits=random_circuits,
        seed=examples.seed,
    )
    if saving.json:
        size = {"model": loaded.name, "task": asked.summary(), "size": judged.size, "edges": judged.edges}
        told = {"verdict": judged.verdict} | size | _metrics(judged)
        print_json(told | {"ways": judged.to_frame().to_dicts()} | origin(judged) | saving.save(judged))
        return
    table = columns("cut edges carry", "circuit keeps [95 %]", "the rest", "random circuits")
    for row in judged.to_frame().iter_rows(named=True):
        kept = estimate(row["kept"], row["low"], row["high"])
        table.add_row(row["cut edges carry"], kept, f"{row['rest']:.2f}", f"{row['random']:.2f}")
    out = answers()
    for part in (judged.verdict, "", table, "", spent(judged)):
        out.print(part)
    print_saved(saving.save(judged))


@app.command
def roles(
    circuit: Annotated[Path, Parameter(help="A folder that --out wrote.")],
    /,
    *,
    model: ModelName,
    task: TaskName,
    steps: Count = 5,
    examples: Examples = AS_USUAL,
    json: Json = False,
    loading: Loading = AS_STORED,
) -> None:
    """What does each head and MLP do, said without its name?

    The answer is saved with the circuit, so that `compare` can take circuits of two models.

    Args:
        steps: Points on the path of eap-ig, which scores the edges.
    """
    from digsite.circuits import eap_ig, node_roles
    from digsite.graphs import Circuit, edge_space
    from digsite.graphs.circuit import ROLES, same_space

    found = Circuit.load(circuit)
    ask = examples.of(task)
    loaded = loading.load(model)
    asked = ask(loaded)
    same_space(edge_space(loaded), [found])
    say_needs(loaded, asked, (3 + 3 * steps) * len(asked.clean))
    told = node_roles(loaded, asked, eap_ig(loaded, asked, steps=steps), seed=examples.seed)
    folder = told.save(circuit / ROLES)
    rows = told.to_frame().to_dicts()
    if json:
        about = {"verdict": told.verdict, "model": loaded.name, "task": asked.summary()}
        print_json(about | {"nodes": rows} | origin(told) | {"folder": str(folder)})
        return
    table = columns("node", "importance", "depth", "effect", "direct")
    for row in rows[:_SHOWN]:
        table.add_row(row["node"], *(f"{row[key]:z.2f}" for key in ("importance", "depth", "effect", "direct")))
    if len(rows) > _SHOWN:
        table.caption = f"the most important {_SHOWN} of {len(rows)}; --json gives all, and all traits"
    out = answers()
    for part in (told.verdict, "", table, "", spent(told)):
        out.print(part)
    print_saved({"folder": str(folder)})


@app.command
def compare(
    circuits: Annotated[list[Path], Parameter(help="Folders that --out wrote.")],
    /,
    *,
    by: Literal["name", "role"] | None = None,
    json: Json = False,
) -> None:
    """How much do circuits overlap, and what do all of them share?

    The overlap (Jaccard) is what is in both over what is in either, beside what chance gives circuits of these sizes.

    Args:
        by: name compares edges by their names; role matches the nodes of two circuits by what they do, for which
            `digsite circuit roles` must have been run on both. By role where models differ, unless given.
    """
    from digsite.circuits import compare_circuits
    from digsite.graphs import Circuit

    found = [Circuit.load(path) for path in circuits]
    if by == "role" or (by is None and len({one.space for one in found}) > 1):
        _compare_roles(circuits, found, json=json)
        return
    told = compare_circuits(found, list(map(str, circuits)))
    pairs, shared = told.to_frame().to_dicts(), told.core.to_frame().select("writer", "reader").to_dicts()
    if json:
        sizes = dict(zip(told.names, told.sizes, strict=True))
        print_json({"verdict": told.verdict, "sizes": sizes, "pairs": pairs, "core": shared})
        return
    table = columns("circuits", "edges", "by chance", "nodes")
    for pair in pairs:
        numbers = (f"{pair[key]:.2f}" for key in ("edges", "edges_by_chance", "nodes"))
        table.add_row(f"{pair['first']}, {pair['second']}", *numbers)
    kept = columns("shared writer", "reader", left=2)
    for edge in shared[:_SHOWN]:
        kept.add_row(edge["writer"], edge["reader"])
    if len(shared) > _SHOWN:
        kept.caption = f"{_SHOWN} of {len(shared)}; --json gives all"
    out = answers()
    for part in (told.verdict, "", table, "", kept):
        out.print(part)


def _compare_roles(paths: list[Path], found: list["Circuit"], *, json: bool) -> None:
    """Two circuits whose nodes are matched by what they do."""
    from digsite.circuits import Roles, match_roles
    from digsite.graphs.circuit import ROLES

    without = [str(path) for path in paths if not (path / ROLES / "result.json").is_file()]
    if len(found) != 2 or without:
        raise BadInput(
            explain(
                "Circuits of different models are compared by role, two at a time",
                found=f"no roles in {', '.join(without)}" if without else f"{len(found)} circuits",
                do="digsite circuit roles FOLDER --model MODEL --task TASK, for each",
            )
        )
    one, other = (Roles.load(path / ROLES) for path in paths)
    told = match_roles(one, other, (found[0], found[1]), names=(str(paths[0]), str(paths[1])))
    pairs, numbers = told.to_frame().to_dicts(), told.numbers().to_dicts()
    if json:
        print_json({"verdict": told.verdict, "numbers": numbers, "matched": pairs})
        return
    table = columns("", "value", "layers alone", "95 % of null", "p")
    for row in numbers:
        shown = (f"{row[key]:z.2f}" for key in ("value", "null", "null_high"))
        table.add_row(row["number"], *shown, f"{row['p']:.2g}")
    matched = columns("first", "second", "similar", "weight", left=2)
    for pair in pairs[:_SHOWN]:
        matched.add_row(pair["first"], pair["second"], f"{pair['similar']:z.2f}", f"{pair['weight']:.2f}")
    out = answers()
    for part in (told.verdict, "", table, "", matched):
        out.print(part)


@app.command
def minimise(
    circuit: Stored,
    /,
    *,
    model: ModelName,
    task: TaskName,
    share: float = 0.85,
    how: How = "corrupt",
    examples: Examples = AS_USUAL,
    saving: Saving = NOWHERE,
    loading: Loading = AS_STORED,
) -> None:
    """What can a circuit do without? Leaves out edges until none can go by itself.

    Args:
        share: How much of the behaviour must stay.
    """
    from digsite.circuits import minimise_circuit

    saving.check()
    ask = examples.of(task)
    loaded = loading.load(model)
    asked = ask(loaded)
    found = read_circuit(circuit, loaded)
    say_needs(loaded, asked, 2 * len(found) * len(asked.clean))
    smaller = minimise_circuit(loaded, asked, found, share=share, how=how)
    _show_circuit(smaller, saving, {"model": loaded.name, "task": asked.summary(), "before": len(found)})


@app.command
def export(circuit: Path, /, *, to: Path, d_model: int = 0) -> None:
    """Writes a circuit as a file that EAP-IG and MIB read.

    Args:
        circuit: A folder that --out wrote.
        to: The .json or .pt file.
        d_model: Width of the model's stream, for readers of single neurons.
    """
    from digsite.graphs import Circuit, write_mib

    found = Circuit.load(circuit)
    write_mib(found, to, d_model=d_model)
    if left_out := int(found.kept[[name == "pos_embed" for name in found.writers]].sum()):
        note(f"{left_out} edges out of pos_embed have no name there and are left out")
    answers().print(f"file: {to}", soft_wrap=True)


def _size(text: str) -> int | float:
    """A number of edges, or with a point a share of all."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise BadInput(
            explain(f"--size {text} is no size of a circuit", possible="144 edges, or a share: 0.05")
        ) from None


def read_circuit(path: Path, model: "Model") -> "Circuit":
    """A circuit from a folder that --out wrote, or from a file of EAP-IG or MIB."""
    from digsite.graphs import Circuit, read_mib

    return read_mib(path, model) if path.suffix in (".json", ".pt") else Circuit.load(path)


def _metrics(judged: "CircuitJudgement") -> dict[str, Any]:
    """The metric with all edges, with none and with the circuit, under the first way; and the worth of each edge."""
    from digsite._core.numerics import bootstrap_interval

    told: dict[str, Any] = {}
    for name in ("full", "empty", "kept"):
        values = getattr(judged, name)[0]
        low, high = bootstrap_interval(values)
        told[name] = {"mean": float(values.mean()), "low": float(low), "high": float(high), "n": len(values)}
    return told | ({"without": judged.without.tolist()} if len(judged.without) else {})


def _show_circuit(found: "Circuit", saving: Saving, about: dict[str, Any]) -> None:
    """Prints a circuit and saves it."""
    rows = found.to_frame().to_dicts()
    if saving.json:
        size = {"method": found.method, "size": len(found), "edges": found.possible, "nodes": list(found.nodes)}
        print_json({"verdict": found.verdict} | about | size | {"kept": rows} | origin(found) | saving.save(found))
        return
    table = columns("writer", "reader", "score", left=2)
    for row in rows[:_SHOWN]:
        table.add_row(row["writer"], row["reader"], "–" if row["score"] != row["score"] else f"{row['score']:z.3f}")
    if len(rows) > _SHOWN:
        which = "the strongest" if any(row["score"] == row["score"] for row in rows) else "the first"
        table.caption = f"{which} {_SHOWN} of {len(rows)}; --json and --out give all"
    out = answers()
    for part in (found.verdict, "", table, "", spent(found)):
        out.print(part)
    print_saved(saving.save(found))
