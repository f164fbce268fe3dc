"""The dictionaries that come with `digsite/tinyworld`, from nothing but a seed.

1. Documents are written as for the model's own training, from other seeds; none that is judged on is learned from.
2. The model reads them once: the streams and the MLPs of all layers are harvested into one store.
3. All dictionaries learn from that one stream of rows, and are written in half precision.
4. The same is done with the model whose weight matrices are shuffled: what a dictionary finds where there is nothing.
5. What was written is read again and judged beside all baselines; the card says how.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from digsite._core.files import whole_folder
from digsite.dictionaries.activations import TopK
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.evaluation import DictionaryEvaluation, evaluate
from digsite.dictionaries.families import clt, sae, transcoder
from digsite.dictionaries.files import load, save
from digsite.dictionaries.recipes import TOPK, TRANSCODER, Recipe
from digsite.dictionaries.tinyworld.card import SHOWN, card, fires_on
from digsite.dictionaries.training import train
from digsite.models import Model, untrained
from digsite.models import load as load_model
from digsite.store import LiveSource, harvest
from digsite.tasks import Corpus
from digsite.toys.tinyworld.documents import Author
from digsite.toys.tinyworld.training import LESSONS
from digsite.toys.tinyworld.vocabulary import tokenizer

MODEL = "digsite/tinyworld"
_LONGEST = 48


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the shipped dictionaries were trained; the card prints it.

    Args:
        documents: How many are learned from.
        rows: Rows that each dictionary learns from, in as many epochs as it takes.
        batch: Rows in a step.
        latents: Of each dictionary, of the CLT in each layer.
        k: How many of them fire in a row, of the CLT in each layer.
        rate: Learning rate.
        judged: Documents that are judged on; as many more are used to fit the baselines.
        seed: Of documents, first numbers and order.
    """

    documents: int = 16_000
    rows: int = 600_000
    batch: int = 1024
    latents: int = 512
    k: int = 16
    rate: float = 3e-3
    judged: int = 160
    seed: int = 0


def texts(seed: int, count: int, *, but: frozenset[str] = frozenset()) -> list[str]:
    """Documents of the world, in the shares of the model's last lesson.

    Args:
        seed: Of what is written.
        count: How many.
        but: Documents that are left out.
    """
    drawn = np.random.default_rng([seed, 1])
    return list(islice((text for text in _written(drawn) if text not in but), count))


def make(out: str | Path, training: Training | None = None) -> Path:
    """Train the dictionaries, judge them, and write them with their card.

    Args:
        out: The folder; written whole or not at all.
        training: Rows, seed and the rest.

    Returns:
        The folder: one folder a dictionary, and README.md, the card.
    """
    training, model, begun = training or Training(), load_model(MODEL), time.process_time()
    learned = texts(training.seed, training.documents)
    held = texts(training.seed + 1, 2 * training.judged, but=frozenset(learned))
    corpus = Corpus.of(held, model, length=_LONGEST, packed=False, name="tinyworld's documents, held out")
    with whole_folder(out, marker="README.md") as folder:
        for name, dictionary in _trained(model, learned, training).items():
            save(dictionary, folder / name, dtype=torch.float16)
        twins = _trained(untrained(model, seed=training.seed), learned, training)
        judged: dict[str, DictionaryEvaluation] = {}
        dictionaries: Mapping[str, Dictionary] = {name: load(folder / name) for name in twins}
        for name, dictionary in dictionaries.items():
            judged[name] = evaluate(
                model,
                dictionary,
                corpus,
                retrain=lambda _, twin=twins[name]: twin,
                rows=training.judged,
                batch=50,
                seed=training.seed,
            )
        shown = {name: fires_on(model, dictionaries[name], held) for name in SHOWN}
        text = card(asdict(training), judged, shown, cpu_seconds=time.process_time() - begun)
        (folder / "README.md").write_text(text, encoding="utf-8")
    return Path(out)


def planned(model: Model, training: Training) -> dict[str, tuple[Dictionary, Recipe]]:
    """The dictionaries by name, new and empty, each with how it is trained.

    Args:
        model: Gives the number and the width of layers.
        training: Latents and k.
    """
    layers, width, chosen = range(model.n_layers), model.d_model, TopK(k=training.k)
    stream, reads, writes = (
        [{f"layers.{layer}.{site}": width} for layer in layers] for site in ("resid_post", "mlp.norm", "mlp.out")
    )
    saes, maps = (replace(recipe, rate=training.rate) for recipe in (TOPK, TRANSCODER))
    joint = clt(_together(reads), _together(writes), training.latents, chosen)
    return {
        **{f"sae-{at}": (sae(stream[at], training.latents, chosen), saes) for at in layers},
        **{f"transcoder-{at}": (transcoder(reads[at], writes[at], training.latents, chosen), maps) for at in layers},
        "clt": (joint, maps),
    }


def _trained(model: Model, learned: list[str], training: Training) -> Mapping[str, Dictionary]:
    """2. and 3."""
    corpus = Corpus.of(learned, model, length=_LONGEST, packed=False, name="tinyworld's documents")
    sites = ["layers.*.resid_post", "layers.*.mlp.norm", "layers.*.mlp.out"]
    with TemporaryDirectory() as place:
        store = harvest(LiveSource(model, corpus, sites, batch_size=64), Path(place) / "store", encoding="fp16")
        done = train(store, planned(model, training), batch=training.batch, rows=training.rows, seed=training.seed)
    return done.dictionaries


def _written(drawn: np.random.Generator) -> Iterator[str]:
    words = tokenizer()
    for ids, _ in Author().documents(drawn, notes=LESSONS[-1].notes):
        yield str(words.decode(ids[1:]))  # its tokenizer puts the BOS there again, and knows the EOS


def _together(columns: list[dict[str, int]]) -> dict[str, int]:
    return {name: width for one in columns for name, width in one.items()}
