"""Every kind of dictionary on a small model of children's stories, beside everything that it has to beat.

1. stories260K reads TinyStories text; SAEs of six kinds at several L0, transcoders, a CLT and a MOLT learn from one
   harvest, in one stream of rows.
2. The same on the model with its weight matrices shuffled.
3. A copy of the model learns a little of wikitext; a crosscoder reads both models on both kinds of text.
4. All are judged on text that was not learned from.

Reads stories260K, TinyStories and wikitext from the folder in DIGSITE_TEST_DATA.
"""

import json
import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import polars as pl
import torch
from benchmarks.science.study import Study
from benchmarks.science.tables import table

import digsite
from digsite._core.progress import track
from digsite.dictionaries import (
    BatchTopK,
    Dictionary,
    DictionaryEvaluation,
    Gated,
    Relu,
    TopK,
    clt,
    compare,
    crosscoder,
    evaluate,
    jacobian_faithfulness,
    model_diff,
    molt,
    sae,
    train,
    transcoder,
)
from digsite.dictionaries.evaluation import RANDOM
from digsite.dictionaries.recipes import (
    APRIL_2024,
    BATCHTOPK,
    CROSSCODER,
    GATED,
    JUMPRELU_SHORT,
    MATRYOSHKA,
    MOLT,
    TOPK,
    TRANSCODER,
    Recipe,
)
from digsite.dictionaries.training import Wanted
from digsite.models import Model, untrained
from digsite.models.prediction import cross_entropy, predicted
from digsite.store import LiveSource, harvest, joined
from digsite.tasks import Corpus

LAYER, LATENTS, WIDTH, K = 2, 512, 64, 16
STREAM = f"layers.{LAYER}.resid_post"
SITES = [STREAM, "layers.*.mlp.norm", "layers.*.mlp.out"]
L0 = (4, 8, 16, 32)
RATE = 3e-3
LENGTH = 256


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done.

    Attributes:
        stories: Stories that are learned from; the others are judged on.
        rows: Rows that each dictionary learns from.
        steps: Of the copy's fine-tuning.
        judged: Sequences of 256 tokens that are judged on.
    """

    stories: int = 500
    rows: int = 330_000
    steps: int = 200
    judged: int = 24


class Texts:
    """The model and what it reads."""

    def __init__(self, size: Size):
        self.folder, self.size = Path(os.environ["DIGSITE_TEST_DATA"]), size
        self.model = digsite.load(self.folder / "models/stories260K")
        stories = json.loads((self.folder / "data/tinystories/tinystories_clean.json").read_text())
        self.learned, self.held = stories[: size.stories], stories[size.stories :]
        articles = (self.folder / "data/wikitext/wikitext2_valid.txt").read_text().splitlines()
        self.articles = [one.strip() for one in articles if len(one) > 200]

    def corpus(self, texts: list[str], name: str) -> Corpus:
        """Texts in packed rows."""
        return Corpus.of(texts, self.model, length=LENGTH, name=name)

    @cached_property
    def both(self) -> tuple[Corpus, Corpus]:
        """Stories and articles in turn: learned from, and held out."""
        half = len(self.articles) // 2
        learned, held = (
            [text for pair in zip(stories, articles, strict=False) for text in pair]
            for stories, articles in ((self.learned, self.articles[:half]), (self.held, self.articles[half:]))
        )
        return self.corpus(learned, "stories and articles"), self.corpus(held, "stories and articles, held out")


def saes() -> dict[str, tuple[Dictionary, Recipe]]:
    """SAEs of the stream by name."""
    column, found = {STREAM: WIDTH}, dict[str, tuple[Dictionary, Recipe]]()
    for l0 in L0:
        found[f"TopK {l0}"] = (sae(column, LATENTS, TopK(k=l0)), TOPK)
        found[f"BatchTopK {l0}"] = (sae(column, LATENTS, BatchTopK(k=l0)), BATCHTOPK)
        jump, relu = (replace(recipe, l0=float(l0)) for recipe in (JUMPRELU_SHORT, APRIL_2024))
        found[f"JumpReLU {l0}"] = (sae(column, LATENTS, jump.activation), jump)
        found[f"ReLU-L1 {l0}"] = (sae(column, LATENTS, Relu()), relu)
    found[f"Gated {K}"] = (sae(column, LATENTS, Gated()), replace(GATED, l0=float(K)))
    nested = sae(column, LATENTS, BatchTopK(k=K), prefixes=(32, 128, LATENTS))
    found[f"Matryoshka {K}"] = (nested, MATRYOSHKA)
    return {name: (one, replace(recipe, rate=RATE)) for name, (one, recipe) in found.items()}


def maps(layers: int) -> dict[str, tuple[Dictionary, Recipe]]:
    """Dictionaries of MLPs by name."""
    reads, writes = ([{f"layers.{at}.mlp.{side}": WIDTH} for at in range(layers)] for side in ("norm", "out"))
    ways = replace(TRANSCODER, rate=RATE)
    one, out = reads[LAYER], writes[LAYER]
    mixture = replace(MOLT, rate=RATE, l0=8.0)
    return {
        **{f"transcoder {at}": (transcoder(reads[at], writes[at], LATENTS, TopK(k=K)), ways) for at in range(layers)},
        f"skip transcoder {LAYER}": (transcoder(one, out, LATENTS, TopK(k=K), skip=True), ways),
        f"MOLT {LAYER}": (molt(one, out, ((32, 8), (64, 4), (128, 2)), mixture.activation), mixture),
        "CLT": (clt(_together(reads), _together(writes), LATENTS, TopK(k=K)), ways),
    }


def study(size: Size | None = None) -> Study:
    """The whole study; says on the way what it finds."""
    size = size or Size()
    texts = Texts(size)
    work = Path(mkdtemp())
    fitted = _trained(texts, texts.model, {**saes(), **maps(texts.model.n_layers)}, work / "model")
    full = [name for name in fitted if name.endswith(f" {K}") or name in maps(texts.model.n_layers)]
    again = {name: one for name, one in {**saes(), **maps(texts.model.n_layers)}.items() if name in full}
    twins = _trained(texts, untrained(texts.model), again, work / "random")
    held = texts.corpus(texts.held, "TinyStories, held out")
    judged: dict[str, DictionaryEvaluation] = {}
    for name, dictionary in fitted.items():
        retrain = (lambda _, name=name: twins[name]) if name in full else None
        judged[name] = evaluate(
            texts.model,
            dictionary,
            held,
            baselines=name in full or name.startswith("TopK"),
            retrain=retrain,
            rows=size.judged,
        )
        print(f"{name}: {judged[name].verdict}", flush=True)
    jacobians = {
        name: jacobian_faithfulness(texts.model, fitted[name], held, rows=8)
        for name in fitted
        if "transcoder" in name or "MOLT" in name
    }
    for name, one in jacobians.items():
        print(f"{name}: {one.verdict}", flush=True)
    told, crossed, difference = _two_models(texts, work)
    return _written(judged, jacobians, told, crossed, difference)


def _trained(texts: Texts, model: Model, wanted: Wanted, folder: Path) -> Mapping[str, Dictionary]:
    """1. and 2. One harvest, one stream of rows."""
    corpus = texts.corpus(texts.learned, "TinyStories")
    store = harvest(LiveSource(model, corpus, SITES), folder, encoding="fp16")
    done = train(store, wanted, batch=512, rows=texts.size.rows)
    print(done.verdict, flush=True)
    return done.dictionaries


# -- two models ----------------------------------------------------------------------------------------------------
def _two_models(texts: Texts, work: Path) -> tuple[str, DictionaryEvaluation, Any]:
    """3. A copy that learned something else, and a crosscoder over both."""
    learned, held = texts.both
    tuned, told = _tuned(texts)
    models = {"base": texts.model, "tuned": tuned}

    def fitted(both: Mapping[str, Model]) -> Dictionary:
        columns = {f"{name}:{STREAM}": WIDTH for name in both}
        recipe = replace(CROSSCODER, rate=RATE)
        new = crosscoder(columns, LATENTS, recipe.activation)
        kept = {
            name: harvest(LiveSource(model, learned, STREAM), work / f"{name} {model.fingerprint}", encoding="fp16")
            for name, model in both.items()
        }
        return train(joined(**kept), new, recipe, batch=512, rows=texts.size.rows).dictionary

    made = fitted(models)
    judged = evaluate(models, made, held, retrain=fitted, rows=texts.size.judged)
    print(judged.verdict, flush=True)
    source = joined(**{name: LiveSource(model, held, STREAM) for name, model in models.items()})
    difference = model_diff(made, source, rows=16_384)
    print(difference.verdict, flush=True)
    return told, judged, difference


def _tuned(texts: Texts) -> tuple[Model, str]:
    """A copy of the model after some steps on articles, and what that did to its losses."""
    hf: Any = deepcopy(texts.model.hf).requires_grad_(requires_grad=True)
    half = len(texts.articles) // 2
    corpus = texts.corpus(texts.articles[:half], "wikitext")
    optimiser = torch.optim.AdamW(hf.parameters(), lr=1e-3)
    for _, tokens in zip(track(range(texts.size.steps), "fine-tuning"), _forever(corpus), strict=False):
        loss = hf(input_ids=tokens.ids, labels=tokens.ids).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
        optimiser.step()
    hf.requires_grad_(requires_grad=False).eval()
    tuned = digsite.load(hf, tokenizer=texts.model.tokenizer)
    losses = {
        name: [_loss(model, texts.corpus(some, name)) for model in (texts.model, tuned)]
        for name, some in (("articles", texts.articles[half:]), ("stories", texts.held))
    }
    said = "; ".join(f"on held-out {name} from {before:.2f} to {after:.2f}" for name, (before, after) in losses.items())
    return tuned, f"{texts.size.steps} steps of 8 × {LENGTH} tokens of wikitext took the loss {said} nats a token"


def _forever(corpus: Corpus) -> Any:
    while True:
        yield from corpus.batches(8)


@torch.no_grad()
def _loss(model: Model, corpus: Corpus) -> float:
    tokens = next(corpus.batches(16))
    return float(cross_entropy(predicted(model.run(tokens).logits), tokens).mean())


# -- the page ------------------------------------------------------------------------------------------------------
def _written(
    judged: Mapping[str, DictionaryEvaluation],
    jacobians: Mapping[str, Any],
    told: str,
    crossed: DictionaryEvaluation,
    difference: Any,
) -> Study:
    """4. Tables and figures."""
    names = [name for name, one in judged.items() if one.columns == (STREAM,)]
    frontier = compare({name: judged[name] for name in names})
    control = (pl.col("kind") == "dictionary") | (
        pl.col("of").str.starts_with("TopK") & pl.col("name").is_in(["PCA", "raw neurons"])
    )
    drawn = replace(frontier, points=frontier.points.filter(control))
    beside = {**judged, "crosscoder": crossed}
    faithful = pl.concat(
        [one.to_frame().select(pl.lit(name).alias("dictionary"), pl.all()) for name, one in jacobians.items()]
    )
    sections = {
        "SAEs of one stream: few latents or little error": [
            "![FVU against L0](FIGURE-frontier.svg)",
            "",
            *table(_all(judged).filter(pl.col("dictionary").is_in(names))),
        ],
        "MLPs": table(_all({name: one for name, one in judged.items() if name not in names})),
        "Beside everything they have to beat: FVU": table(_baselines(beside, lambda one: one.fvu())),
        "Beside everything they have to beat: loss recovered": table(
            _baselines(beside, lambda one: one.recovered()[:, 0], but=RANDOM)
        ),
        "Do they compute what the MLP computes? Cosines of Jacobians": table(faithful),
        "Two models": [
            f"{told}.",
            "",
            *table(_all({"crosscoder": crossed})),
            "",
            f"{difference.verdict}.",
            "",
            "![Which model latents write to](FIGURE-models.svg)",
        ],
    }
    lines = ["# Dictionaries of stories260K on TinyStories", "", f"{drawn.verdict}.", ""]
    for title, some in sections.items():
        lines += [f"## {title}", "", *some, ""]
    return Study(page="\n".join(lines), figures={"frontier": drawn.figure(), "models": difference.figure()})


def _all(judged: Mapping[str, DictionaryEvaluation]) -> pl.DataFrame:
    """One row a dictionary and place."""
    kept = [
        "place",
        "l0",
        "fvu",
        "fvu_low",
        "fvu_high",
        "recovered",
        "over_mean",
        "kl",
        "dead",
        "dense",
        "single_token",
    ]
    return pl.concat(
        [
            one.to_frame().filter(judged="dictionary").select(pl.lit(name).alias("dictionary"), *kept)
            for name, one in judged.items()
        ]
    )


def _baselines(
    judged: Mapping[str, DictionaryEvaluation],
    number: Callable[[DictionaryEvaluation], torch.Tensor],
    *,
    but: str = "",
) -> pl.DataFrame:
    """Dictionaries down, what was judged beside them across."""
    found = [
        {"dictionary": name, "L0": float(one.to_frame().row(0, named=True)["l0"])}
        | {
            "itself" if what == "dictionary" else what: value
            for what, value in zip(one.judged, number(one).tolist(), strict=True)
            if what != but
        }
        for name, one in judged.items()
        if len(one.judged) > 1
    ]
    return pl.DataFrame(found, infer_schema_length=None)


def _together(columns: list[dict[str, int]]) -> dict[str, int]:
    return {name: width for one in columns for name, width in one.items()}
