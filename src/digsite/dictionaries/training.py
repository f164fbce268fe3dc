"""Training: any number of dictionaries learn from one stream of rows.

1. New dictionaries get their scales and first numbers from the source.
2. Rows come in a shuffled order, each of an epoch exactly once; every dictionary takes a step on the same batch.
3. About a hundred times a run metrics are read, told to callbacks and kept as curves; a loss that is not finite stops
   the run there, before anything is written.
4. Now and then, and on Ctrl-C, the state is written: dictionaries, optimisers, counters, the place in the order. A run
   that was stopped goes on from there, and ends in the same numbers, bit for bit.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import torch

from digsite._core.cost import measure
from digsite._core.errors import BadInput, LoadError, explain
from digsite._core.interrupts import uninterrupted
from digsite._core.progress import track
from digsite._core.provenance import record
from digsite._core.recording import method
from digsite._core.version import __version__
from digsite.artifacts import Result
from digsite.dictionaries import checkpoint
from digsite.dictionaries.callbacks import Callback
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.files import load, save
from digsite.dictionaries.preparing import prepare
from digsite.dictionaries.recipes import TOPK, Recipe
from digsite.dictionaries.trainer import Trainer
from digsite.store import Rows, Shuffled, Source

_BUFFER = 131_072
_POINTS = 100
"""How often metrics are told in a run."""

Wanted = Dictionary | Mapping[str, Dictionary | tuple[Dictionary, Recipe]]


@dataclass(frozen=True, kw_only=True)
class TrainedDictionaries(Result):
    """Dictionaries that were trained together, and how it went.

    Attributes:
        names: Of the dictionaries.
        recipes: Of each.
        curves: What was told on the way: a row for every dictionary and point. `fvu` is of one batch, losses, `l0` and
            `density` are over the rows since the point before; `density` counts latents by the share of rows in which
            they fired (bins: `digsite.dictionaries.monitor.DENSITIES`); `dead` is the share of latents that have not
            fired for as many rows as the recipe says.
        rows: Rows that each dictionary learned from, counted as they were served.
        steps: Optimiser steps.
    """

    SCHEMA: ClassVar[str] = "dictionaries.training/1"

    names: tuple[str, ...]
    recipes: tuple[str, ...]
    curves: pl.DataFrame
    rows: int
    steps: int

    @property
    def dictionaries(self) -> Mapping[str, Dictionary]:
        """The dictionaries, ready to encode.

        Raises:
            LoadError: The result was read without them; `TrainedDictionaries.load` reads both.
        """
        if "_held" not in self.__dict__:
            do = "read the folder with TrainedDictionaries.load"
            raise LoadError(explain("This result was read without its dictionaries", do=do))
        return self.__dict__["_held"]

    @property
    def dictionary(self) -> Dictionary:
        """The only dictionary."""
        (only,) = self.dictionaries.values()
        return only

    @property
    def verdict(self) -> str:
        """How each ended."""
        ends = [self.curves.filter(pl.col("dictionary") == name).row(-1, named=True) for name in self.names]
        told = "; ".join(
            f"{end['dictionary']} leaves {end['fvu']:.1%} of the variance with {end['l0']:.3g} latents a row, "
            f"{end['dead']:.0%} of them dead"
            for end in ends
        )
        return f"After {self.rows:,} rows {told}"

    def to_frame(self) -> pl.DataFrame:
        """The curves."""
        return self.curves

    def save(self, folder: str | Path) -> Path:
        """Write the result, and each dictionary to a folder of its name below it."""
        folder = super().save(folder)
        for name, dictionary in self.dictionaries.items():
            save(dictionary, folder / name)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "TrainedDictionaries":
        """Read the result and its dictionaries."""
        found = super().load(folder)
        return _holding(found, {name: load(Path(folder) / name) for name in found.names})


@method
def train(
    source: Source,
    dictionaries: Wanted,
    recipe: Recipe = TOPK,
    *,
    batch: int = 4096,
    rows: int | None = None,
    buffer: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    save_seconds: float = 300.0,
) -> TrainedDictionaries:
    """Train dictionaries on the rows of a source.

    Args:
        source: A model that reads text, a store, or several joined.
        dictionaries: One, or several by name, each by itself or with its own recipe. New ones (all zeros) get their
            first numbers here; others go on from theirs. They are trained in place.
        recipe: Of those without their own.
        batch: Rows in a step.
        rows: How many rows to learn from, in as many epochs as it takes; all rows of the source once if None. Counted
            in whole batches.
        buffer: Rows that are shuffled at one time; 131,072, or all, if None.
        seed: Of first numbers and order.
        folder: Where the result goes; while it is unfinished, its state is in a folder beside it (`….training`), from
            where the same call goes on. Nothing is written if None.
        callbacks: Called with steps and metrics whenever these are told.
        save_seconds: How long to wait from one writing of the state to the next.

    Raises:
        BadInput: A column is missing or constant, a loss does not go with the latents, the buffer is smaller than a
            batch, or the folder holds a training that is finished, or has other settings.
        ShapeMismatch: A column has another width.
        NotFinite: A loss became NaN or infinite; the state that was written last is still there.

    Units: losses in normalised units (columns divided by their scale); `fvu`, `dead` fractions; `l0` latents a row.

    Caveats:
        FVU and L0 of the curves are those of training rows. Judge a dictionary on others.
    """
    pairs = _pairs(dictionaries, recipe)
    place = None if folder is None else Path(folder)
    if place is not None:
        refuse_finished(place)
    batch = min(batch, source.rows)
    wanted = source.rows if rows is None else rows
    buffer = max(batch, min(_BUFFER, source.rows)) if buffer is None else buffer
    order = Shuffled(source, batch=batch, buffer=buffer, seed=seed, epochs=-(-wanted // source.rows))
    steps = steps_of(wanted, source.rows, batch)
    for dictionary, own in pairs.values():
        prepare(dictionary, own, source, seed=seed)  # 1.
    trainers = {
        name: Trainer(dictionary, own, steps=steps, rows=wanted, seed=seed) for name, (dictionary, own) in pairs.items()
    }
    settings = {
        **{f"source {key}": value for key, value in source.identity.items()},
        "rows": wanted,
        "batch": batch,
        "buffer": buffer,
        "seed": seed,
        **{f"dictionary {name}": one.dictionary.config.to_dict() for name, one in trainers.items()},
        **{f"recipe of {name}": repr(own) for name, (_, own) in pairs.items()},
    }
    run = _Run(trainers, order, settings, place, callbacks, save_seconds)
    with measure() as cost:
        run.to_the_end(steps, wanted)
    cost.seconds = run.seconds
    done = {name: _finished(one, settings) for name, one in trainers.items()}
    result = TrainedDictionaries(
        names=tuple(done),
        recipes=tuple(own.name for _, own in pairs.values()),
        curves=run.curves,
        rows=order.served,
        steps=steps,
        provenance=record(f"digsite.dictionaries.train(source, {list(done)}, rows={wanted}, batch={batch})", seed=seed),
        cost=cost,
    )
    result = _holding(result, done)
    if place is not None:
        result.save(place)
        shutil.rmtree(state_of(place), ignore_errors=True)
    return result


def refuse_finished(place: Path) -> None:
    """Raises where a training was finished already.

    Args:
        place: The folder of a result.

    Raises:
        BadInput: It holds one.
    """
    if (place / "result.json").exists():
        do = "read it with TrainedDictionaries.load, or choose another place"
        raise BadInput(explain(f"A finished training lies in {place}", do=do))


class _Run:
    """A training as it goes on."""

    def __init__(
        self,
        trainers: Mapping[str, Trainer],
        order: Shuffled,
        settings: Mapping[str, Any],
        place: Path | None,
        callbacks: Sequence[Callback],
        save_seconds: float,
    ):
        self.trainers, self.order, self.settings, self.callbacks = trainers, order, settings, callbacks
        self.state, self.save_seconds = None if place is None else state_of(place), save_seconds
        self.done, self.seconds, self._before = 0, 0.0, 0.0
        self.told: list[dict[str, Any]] = []
        found = None if self.state is None else checkpoint.read(self.state, trainers, settings)
        if found is not None:
            self.done, self._before = found.step, found.seconds
            self.told = found.curves.to_dicts()
            order.resume(found.order)
        self._saved = self._begun = time.perf_counter()
        self._first = self.order.served
        self._where = order.state()

    @property
    def curves(self) -> pl.DataFrame:
        """What was told so far."""
        return pl.DataFrame(self.told, infer_schema_length=None)

    def to_the_end(self, steps: int, wanted: int) -> None:
        """All steps that are left."""
        every = max(1, steps // _POINTS)
        try:
            for rows in track(self._rows(wanted), "training", total=steps - self.done):
                with uninterrupted():
                    self._step(rows)
                if self.done % every == 0 or self.done == steps:
                    self._tell(wanted)  # 3.
                    if time.perf_counter() - self._saved >= self.save_seconds:
                        self._keep()  # 4.
        except KeyboardInterrupt:
            self._keep()
            raise

    def _step(self, rows: Rows) -> None:
        for trainer in self.trainers.values():
            trainer.step(rows.to(trainer.pressure.device, torch.float32))
        self.done, self._where = self.done + 1, self.order.state()
        self.seconds = self._before + time.perf_counter() - self._begun

    def _rows(self, wanted: int) -> Iterator[Rows]:
        for rows in self.order:  # 2.
            yield rows
            if self.order.served >= wanted:
                return

    def _tell(self, wanted: int) -> None:
        served, spent = self.order.served, time.perf_counter() - self._begun
        speed = (served - self._first) / max(spent, 1e-9)
        told = {}
        for name, trainer in self.trainers.items():
            metrics = trainer.monitor.read()
            told[name] = {
                "dictionary": name,
                "step": self.done,
                "rows": served,
                **metrics,
                "dead": trainer.dead_share(),
                "rate": trainer.rate,
                "pressure": float(trainer.pressure),
                "rows_per_second": speed,
                "seconds_left": max(0, wanted - served) / speed,
            }
        self.told += told.values()
        for callback in self.callbacks:
            callback(self.done, told)

    def _keep(self) -> None:
        if self.state is None or not self.done:
            return
        progress = checkpoint.Progress(
            settings=self.settings, order=self._where, step=self.done, seconds=self.seconds, curves=self.curves
        )
        checkpoint.write(self.state, self.trainers, progress)
        self._saved = time.perf_counter()


# -- small parts ---------------------------------------------------------------------------------------------------
def _pairs(dictionaries: Wanted, recipe: Recipe) -> dict[str, tuple[Dictionary, Recipe]]:
    if isinstance(dictionaries, Dictionary):
        return {dictionaries.config.family: (dictionaries, recipe)}
    if not dictionaries:
        raise BadInput(explain("There is no dictionary to train"))
    if wrong := [name for name in dictionaries if not name or set(name) & set("/\\") or name.startswith(".")]:
        raise BadInput(explain(f"{wrong[0]!r} is no name of a dictionary", possible="words that can name a folder"))
    return {name: one if isinstance(one, tuple) else (one, recipe) for name, one in dictionaries.items()}


def steps_of(wanted: int, rows: int, batch: int) -> int:
    """Batches until so many rows are served; the last batch of an epoch may be smaller.

    Args:
        wanted: Rows to serve.
        rows: Rows of an epoch.
        batch: Rows of a batch.
    """
    epochs, rest = divmod(wanted, rows)
    return epochs * -(-rows // batch) + -(-rest // batch)


def state_of(place: Path) -> Path:
    """Where the state of an unfinished training is.

    Args:
        place: Where its result will be.
    """
    return place.with_name(f"{place.name}.training")


def _finished(trainer: Trainer, settings: Mapping[str, Any]) -> Dictionary:
    dictionary = trainer.dictionary.eval()
    own = (key for key in settings if not key.startswith(("dictionary ", "recipe of ")))
    kept = {key.removeprefix("source "): settings[key] for key in own}
    origin = {**dictionary.config.origin, **kept, "recipe": trainer.recipe.name, "digsite": __version__}
    dictionary.config = replace(dictionary.config, origin=origin)
    return dictionary


def _holding(result: TrainedDictionaries, dictionaries: Mapping[str, Dictionary]) -> TrainedDictionaries:
    object.__setattr__(result, "_held", dict(dictionaries))
    return result
