"""The report of an investigation: question, verdict, and the evidence in the order in which a sceptic asks for it."""

from collections.abc import Sequence
from pathlib import PurePath

from digsite._core.figures import draws
from digsite.investigations import Investigation
from digsite.investigations.answer import Claim as Found
from digsite.patching import AblationResult
from digsite.viz.methods import keep_figure, knockout_figure
from digsite.viz.page import Report, Section
from digsite.viz.table import Chip, Claim, claims_table
from digsite.viz.tokens import TokenPair, token_rows


@draws(Investigation)
def investigation_report(result: Investigation) -> Report:
    """The page of an investigation."""
    cost, made = result.cost, result.provenance
    name = PurePath(result.model).name if result.model.startswith("/") else result.model
    heads = {site for site in result.denoise.sites if "attn.z" in site}
    layers = {site.split(".")[1] for site in result.denoise.sites}
    return Report(
        title=result.question,
        verdict=result.verdict,
        meta=(
            f"`{name}`",
            f"task {result.task.name}",
            f"{result.task.examples} prompt pairs",
            f"{len(layers)} layers, {len(heads)} heads",
            f"{cost.seconds:.0f} s",
            made.created[:10],
        ),
        sections=tuple(section for section in _sections(result) if section is not None),
        cost=(
            f"{cost.forwards:,} forward passes of {cost.rows:,} rows",
            f"{cost.backwards:,} backward",
            f"{cost.seconds:.0f} s ({cost.cpu_seconds:.0f} s of processor time)",
            f"peak memory {cost.peak_mb:,.0f} MB",
        ),
        command=made.made_by,
        provenance={key: str(value) for key, value in made.to_dict().items() if value is not None and key != "made_by"},
    )


def _sections(result: Investigation) -> list[Section | None]:
    return [
        _prompts(result),
        _accuracy(result),
        _lens(result),
        _direct(result),
        _patching(result),
        None if result.ablation is None else _set(result, result.ablation),
        None
        if result.ablation is None
        else claims_section(
            result.claims(),
            "The set against random sets of its size; each component, noised by itself, against an equally large "
            "change in a random direction. Shares of the behaviour between clean and corrupt.",
        ),
        None if result.ablation is None else _edges(result),
    ]


def _prompts(result: Investigation) -> Section:
    pairs = [
        TokenPair(
            clean=prompt.clean,
            corrupt=prompt.corrupt,
            right=prompt.right,
            wrong=prompt.wrong,
            special=frozenset(prompt.special),
        )
        for prompt in result.prompts
    ]
    bos = result.task.bos
    dropped = "; ".join(f"{count:,} × {reason}" for reason, count in result.task.dropped.items())
    caption = (
        f"Clean above, corrupt below; the tokens that differ are underlined, the answer position is ringed. "
        f"{len(pairs)} of {result.task.examples} pairs; the arrow keys walk through them. "
        f"{_sentence(result.task.description)}"
    )
    if dropped:
        caption += f" Not used: {dropped}."
    return Section(
        title="The prompts, exactly as the model reads them",
        chips=(Chip(f"BOS {bos}"),),
        body=(token_rows(pairs, bos=bos), caption),
    )


def _accuracy(result: Investigation) -> Section:
    mean, low, high = result.accuracy
    n = len(result.correct)
    status = "good" if result.does_the_task else "bad"
    return Section(
        title="Does it do the task?",
        chips=(Chip(f"{mean:.1%} right" + ("" if result.does_the_task else ": not beyond chance"), status),),
        body=(
            f"In {int(result.correct.sum())} of {n} prompts the right answer beats the wrong ones "
            f"({mean:.1%}; 95 % {low:.1%} to {high:.1%}; chance 50 %).",
        ),
    )


def _lens(result: Investigation) -> Section:
    error = result.lens.last_layer_error
    exact = "bit for bit" if error == 0 else f"to {error:.0e} logits"
    status = "good" if error < 1e-2 else "bad"
    return Section(
        title="Where the answer appears",
        chips=(Chip(f"last layer equals the model {exact}", status),),
        body=(result.lens.figure(), _sentence(result.lens.verdict)),
    )


def _direct(result: Investigation) -> Section:
    error = result.direct.error
    status = "good" if error < 1e-2 else "bad"
    return Section(
        title="Which components write it",
        chips=(Chip(f"rows sum to the metric, to {error:.0e} logits", status),),
        body=(
            result.direct.figure(),
            "Direct attribution at the answer position. A head that works through later heads shows nothing here.",
        ),
    )


def _patching(result: Investigation) -> Section:
    denoise, noise = result.denoise.effects.mean(1), result.noise.effects.mean(1)
    centred = denoise - denoise.mean(), noise - noise.mean()
    scale = float(centred[0].norm() * centred[1].norm())
    agreement = float((centred[0] * centred[1]).sum()) / scale if scale else float("nan")
    status = "good" if agreement > 0.5 else "open"
    return Section(
        title="Which positions, heads and MLPs carry it",
        chips=(Chip(f"noising and denoising agree: r = {agreement:.2f}", status),),
        body=(
            result.denoise.figure(),
            result.noise.figure(),
            "First, what is enough: clean put into the corrupt run. Then, what is needed: corrupt put into the clean "
            "run. The last column is the layer's MLP. Effects of cells do not add up.",
            result.positions.figure(),
            "The residual stream at the start of each layer, clean put into corrupt: where in the prompt the "
            "information is, layer by layer.",
        ),
    )


def _set(result: Investigation, a: AblationResult) -> Section:
    breaks, keeps = a.beaten
    draws = len(a.random_keep)
    chips = (
        Chip(f"breaks more than {breaks} of {draws} random sets", "good" if a.beats_chance[0] else "bad"),
        Chip(f"keeps more than {keeps} of {draws}", "good" if a.beats_chance[1] else "bad"),
    )
    return Section(
        title="Is this set needed, and is it enough?",
        chips=chips,
        body=(
            "The set: " + ", ".join(f"`{name}`" for name in a.components) + ".",
            knockout_figure(a),
            keep_figure(a),
            f"Amber: the proposed set with its interval. Grey: {draws} random sets with as many heads and MLPs. "
            f"The set was chosen on {result.selection} examples; these numbers come from {len(a.clean)} others. A "
            f"component that is taken away gets the value it has on the corrupt prompt.",
        ),
    )


def _edges(result: Investigation) -> Section:
    """The circuit, edge by edge."""
    title = "Which edges carry it"
    row = result.kept_by_edges
    if result.circuit is None or result.edges is None or row is None:
        return Section(title=title, body=(f"No circuit of edges was looked for: {_sentence(result.no_circuit)}",))
    beats = row["low"] > row["random_best"]
    chips = (
        Chip(f"{len(result.circuit)} edges keep {row['kept']:.0%}", "good" if beats else "bad"),
        Chip(f"random circuits keep {row['random']:.0%}", "good" if beats else "bad"),
    )
    return Section(
        title=title,
        chips=chips,
        body=(
            result.circuit.figure(),
            result.edges.figure(),
            f"An edge is one way from a component to a later one's query, key, value or MLP input. Edges were scored, "
            f"and the smallest circuit that keeps 85 % was chosen, on {result.selection} examples at most; what is "
            f"kept was measured on {len(result.edges.full)} others, all other edges carrying what they carry on the "
            f"corrupt prompt.",
        ),
    )


def claims_section(claims: Sequence[Found], null: str) -> Section:
    """What an investigation claims, each beside its null.

    Args:
        claims: Of the result.
        null: What the null of each is.
    """
    rows = [
        Claim(
            claim=_coded(claim.claim),
            effect=claim.effect,
            low=claim.low,
            high=claim.high,
            null=claim.null,
            n=claim.n,
            unit=claim.unit,
            status=Chip("supported", "good") if claim.supported else Chip("did not beat its control", "bad"),
        )
        for claim in claims
    ]
    return Section(title="What each claim rests on", body=(claims_table(rows), null))


def _coded(claim: str) -> str:
    first, _, rest = claim.partition(" ")
    return f"`{first}` {rest}" if first.startswith("layers.") else claim


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text.endswith(".") else f"{text[0].upper()}{text[1:]}."
