"""What was found about where something is represented, and how it is said."""

import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import torch

from digsite._core.figures import drawing_of
from digsite.artifacts import Result
from digsite.directions.probes import CausalCheck, ProbeCard, ProbeSweep, TransferMatrix
from digsite.directions.probes.card import HELD_OUT, PROBE
from digsite.directions.steering import SteerCard
from digsite.investigations.answer import CLAIMS, Claim, TaskCard


@dataclass(frozen=True, kw_only=True)
class WhereInvestigation(Result):
    """Where something is represented: read, used, steered with, and carried over, each beside its control.

    Attributes:
        question: What was asked.
        model: The model's name.
        task: What the prompts are.
        by: What tells them apart: "answer", or "clean" where the task has not two answers.
        selection: How many examples chose the place; all numbers but those of the sweep come from the rest.
        place: The chosen position, by its name.
        sweep: The label at every site and position.
        card: The probe at the chosen place, fitted and judged on examples that did not choose it.
        causal: What becomes of the task without its direction, on prompts it was not fitted on.
        steer: What adding the direction does, and what it costs.
        neutral: What the cost was measured on.
        transfer: How probes carry over between the sets; None where there was one set only.
    """

    SCHEMA: ClassVar[str] = "investigations.where/1"

    question: str
    model: str
    task: TaskCard
    by: str
    selection: int
    place: str
    sweep: ProbeSweep
    card: ProbeCard
    causal: CausalCheck
    steer: SteerCard
    neutral: str
    transfer: TransferMatrix | None

    @property
    def site(self) -> str:
        """The chosen site."""
        return str(self.card.direction.site)

    @property
    def as_good(self) -> int:
        """How many other cells of the sweep have an AUROC that is not below the interval of the chosen one."""
        other = torch.arange(len(self.sweep.sites)) != self.sweep.best.cell
        return int((other & (self.sweep.auroc >= self.sweep.best.low)).sum())

    def claims(self) -> list[Claim]:
        """What each step rests on, in the order of the steps."""
        return [self._chosen(), *self._read(), self._used(), self._steered(), *self._carried()]

    @property
    def holds(self) -> bool:
        """Whether every claim beat its control, but that a baseline may read the label as well."""
        return all(claim.supported for claim in self.claims() if claim.claim != BASELINES)

    @property
    def verdict(self) -> str:
        """Where it is read best, whether the model uses it, steers with it, carries it over; what failed."""
        chosen, read, _, used, steered, *carried = self.claims()
        name, place = self.card.direction.name, f"{self.site}, position {self.place}"
        shown = chosen.supported and read.supported
        best = "best" if shown else "beyond chance: best"
        tied = f", as well as in {self.as_good} of the {len(self.sweep.sites) - 1} other cells"
        kl = self._steering()["kl"]
        said = [
            f"{name if shown else f'it is not shown that {name}'} is read {best} at {place}"
            f"{tied if self.as_good else ''}, AUROC {read.effect:.2f} (95 % {read.low:.2f} to {read.high:.2f}; "
            f"shuffled labels and 95 % of random directions at most {read.null:.2f}) on examples that did not choose "
            f"the place, n = {read.n}",
            f"{'the model uses it' if used.supported else 'it is not shown that the model uses it'}: without it the "
            f"{self.causal.metric_name} falls by {used.effect:.2f} of {float(self.causal.base.mean()):.2f} {used.unit} "
            f"(95 % {used.low:.2f} to {used.high:.2f}; equal random changes at most {used.null:.2f})",
            f"{'it steers' if steered.supported else 'it is not shown that it steers'}: {steered.effect:+.2f} "
            f"{steered.unit} (95 % {steered.low:+.2f} to {steered.high:+.2f}; random directions at most "
            f"{steered.null:.2f}) at a KL of {kl:.3f} nats a token on {self.neutral}",
        ]
        if carried:
            over, least = sum(claim.supported for claim in carried), min(claim.effect for claim in carried)
            said.append(f"it carries over to {over} of {len(carried)} other sets (least AUROC {least:.2f})")
        else:
            said.append("whether it carries over was not tried")
        if failed := self.failures():
            said.append(f"but {', '.join(failed)}")
        return "; ".join(said)

    def failures(self) -> list[str]:
        """What did not survive its control, each as a phrase."""
        chosen, *_ = self.claims()
        failed = [] if chosen.supported else ["the place is no better than one that shuffled labels choose"]
        failed += self.card.failures()
        if not self.causal.is_used:
            failed.append("ablating it does no more than an equal change in a random direction")
        if self.steer.chosen is None:
            failed.append(f"no coefficient steers within a KL of {self.steer.most_kl:g} nats a token")
        elif self._steering()["coefficient"] < 0:
            failed.append("it steers the other way round than it reads")
        failed += self.steer.failures
        failed += [f"it is not shown that {claim.claim}" for claim in self.claims()[5:] if not claim.supported]
        return failed

    def to_frame(self) -> pl.DataFrame:
        """One row a claim."""
        return pl.DataFrame([claim._asdict() for claim in self.claims()], schema=CLAIMS)

    def summary(self) -> dict[str, Any]:
        """The numbers as plain data with stable keys."""
        return {
            "question": self.question,
            "verdict": self.verdict,
            "model": self.model,
            "task": asdict(self.task),
            "label": self.card.direction.name,
            "by": self.by,
            "site": self.site,
            "place": self.place,
            "as_good": self.as_good,
            "cells": len(self.sweep.sites),
            "neutral": self.neutral,
            "holds": self.holds,
            "failures": self.failures(),
            "claims": [claim._asdict() for claim in self.claims()],
            "cost": vars(self.cost),
            "provenance": self.provenance.to_dict(),
        }

    def report(self, path: str | Path) -> Path:
        """Write the report: one self-contained HTML page.

        Args:
            path: The file; it is there whole or not at all.
        """
        importlib.import_module("digsite.viz")  # by name: drawing lies above and registers itself
        return drawing_of(type(self))(self).write(Path(path))

    # -- claims ------------------------------------------------------------------------------------------------------
    def _chosen(self) -> Claim:
        """1. The place, on the half of the held-out examples that did not choose it."""
        best, reached = self.sweep.best, float(self.sweep.null_best.quantile(0.95))
        n = int((~self.sweep.chooses).sum())
        return Claim(
            f"{self.site} at {self.place} reads it", best.auroc, best.low, best.high, reached, n, "AUROC",
            best.low > reached,
        )  # fmt: skip

    def _read(self) -> list[Claim]:
        """2. The probe, beside shuffled labels and random directions; and beside its baselines."""
        own, *others = [row for row in self.card.to_frame().to_dicts() if row["set"] == HELD_OUT]
        assert own["by"] == PROBE
        null, words = max(float(self.card.shuffled.max()), own["random_95"]), max(row["auroc"] for row in others)
        numbers = own["auroc"], own["low"], own["high"]
        return [
            Claim("so does a probe on other examples", *numbers, null, own["n"], "AUROC", own["low"] > null),
            Claim(BASELINES, *numbers, words, own["n"], "AUROC", own["low"] > words),
        ]

    def _used(self) -> Claim:
        """2. What ablating the direction takes."""
        took, _, *random = self.causal.to_frame().to_dicts()
        most = max(row["lost"] for row in random)
        numbers = took["lost"], took["low"], took["high"], most, took["n"]
        return Claim("the task needs the direction", *numbers, self.causal.unit, self.causal.is_used)

    def _steered(self) -> Claim:
        """3. What adding it does, where it was chosen and the direction steers the way that it reads."""
        row = self._steering()
        most = float(self.steer.random_reach[self.steer.coefficients.tolist().index(row["coefficient"])])
        numbers = row["effect"], row["low"], row["high"], most, self.steer.reported.shape[1]
        beats = row["chosen"] and row["coefficient"] > 0 and row["low"] > most and row["kl"] <= self.steer.most_kl
        called = f"adding {row['coefficient']:g} {self.steer.unit} of it steers"
        return Claim(called, *numbers, self.steer.effect_unit, beats)

    def _steering(self) -> dict[str, Any]:
        """The chosen coefficient; where none could be chosen, the cheapest."""
        rows = self.steer.to_frame().to_dicts()
        if self.steer.chosen is not None:
            return rows[self.steer.chosen]
        return min((row for row in rows if row["finite"]), key=lambda row: row["kl"])

    def _carried(self) -> list[Claim]:
        """4. The probe of this set on every other."""
        if self.transfer is None:
            return []
        own = self.transfer.sets[0]
        rows = [row for row in self.transfer.to_frame().to_dicts() if row["train"] == own and row["test"] != own]
        return [
            Claim(
                f"it carries over to {row['test']}", row["auroc"], row["low"], row["high"], row["random_95"], row["n"],
                "AUROC", row["low"] > max(0.5, row["random_95"]),
            )
            for row in rows
        ]  # fmt: skip


BASELINES = "no baseline reads it as well"
"""The claim that bags of words and embeddings test."""
