"""A transformer that finds the legal moves of Othello, and the board that it keeps to do so.

Rows are the moves of a random game on 6 × 6 squares. After each move the network says what may come next. It never sees
a board; which moves are legal follows from where the discs are, and each move can turn many of them.

1. Train on what a random player does next: each legal move is equally likely, any other is impossible.
2. Fit a linear map from the stream after a move to the board: for each square empty, mine or theirs, as the player to
   move sees it. Judge it on games with other openings, against the boards of other games at the same move, and against
   the same fit on a network that was not trained.
3. Turn one disc round in the stream, along the direction in which the fit reads it. The moves that the network now
   holds for legal should be those of the board with that disc turned. A random direction of the same length is the
   control.

The target of a step is the random player's distribution and not the one move that was played: the same loss on average
over what is played, with less noise. It also means that games can be held out by their openings and leave no trace.

Source: Li et al. 2022, "Emergent world representations", arXiv:2210.13382, for the game, the edit and its count of
errors; Nanda et al. 2023, "Emergent linear representations in world models", arXiv:2309.00941: the board is linear, if
it is asked for as mine and theirs and not as black and white. They play on 8 × 8, and passes are no tokens there.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import kl_div, one_hot

from digsite._core.cost import measure
from digsite._core.recording import method
from digsite.models import add, load
from digsite.models.model import Model
from digsite.toys.trained.claims import at_least, at_most, findings, thinned
from digsite.toys.trained.muon import Muon
from digsite.toys.trained.networks import small_gpt2
from digsite.toys.trained.othello_board import LENGTH, MOVES, OPENING, PASS, SQUARES, Games, allowed_moves, bits, play
from digsite.toys.trained.toy import Findings, TrainedToy
from digsite.toys.training import Recipe, Trained, warm_cosine

STEPS, ROWS = 6000, 32
LAYERS = 4
SITE = "layers.1.resid_post"
"""Where the board is read and edited."""
EMPTY, MINE, THEIRS = range(3)


def untrained() -> Any:
    """The network with fresh weights."""
    return small_gpt2(vocab=MOVES, length=LENGTH, layers=LAYERS, heads=4, width=128, neurons=512)


def loss(network: Any, step: int, *, seed: int) -> Tensor:
    """How far the predictions are from the random player's choice, in nats: zero is the best that can be had."""
    games = play(np.random.default_rng([seed, step]), ROWS)
    said = network(input_ids=torch.from_numpy(games.moves)).logits.log_softmax(-1)
    choice = torch.from_numpy(games.legal / games.legal.sum(-1, keepdims=True)).to(said)
    return kl_div(said.flatten(0, 1), choice.flatten(0, 1), reduction="batchmean")


def recipe(seed: int, steps: int | None = None) -> Recipe:
    """How it is trained: on new games in every step."""
    steps = STEPS if steps is None else steps
    return Recipe(
        name="othello-mini",
        settings={"toy": "othello-mini/2", "steps": steps, "seed": seed},
        steps=steps,
        seed=seed,
        network=untrained,
        optimiser=lambda network: Muon(network, weight_decay=0.05),
        loss=lambda network, step: loss(network, step, seed=seed),
        rate=warm_cosine(peak=5e-3, steps=steps),
        clip=1.0,
        kept=12,
    )


def playable(games: Games) -> Bool[Tensor, "batch pos"]:
    """The places at which some square may be played on."""
    return torch.from_numpy(~games.legal[..., PASS])


def judged(games: Games) -> Bool[Tensor, "batch pos"]:
    """Those of them after the opening: what came before was never seen in training."""
    asked = playable(games)
    asked[:, : OPENING - 1] = False
    return asked


def boards(games: Games) -> Int[Tensor, "batch pos square"]:
    """EMPTY, MINE or THEIRS for each square after each move, as the player to move sees it."""
    return torch.from_numpy(np.where(games.mine, MINE, np.where(games.theirs, THEIRS, EMPTY)))


def is_legal(model: Model, games: Games) -> Bool[Tensor, "batch pos"]:
    """Whether the most likely move is legal, after each move."""
    said = model.run(model.tokens(torch.from_numpy(games.moves))).logits.argmax(-1)
    return torch.from_numpy(games.legal).gather(-1, said[..., None])[..., 0]


def stream(model: Model, games: Games, *, site: str = SITE) -> Float[Tensor, "batch pos d_model"]:
    """The stream after every move."""
    return model.run(model.tokens(torch.from_numpy(games.moves)), read=[site], logits=None)[site]


@dataclass(frozen=True)
class Probe:
    """A linear map from the stream to the board.

    Attributes:
        weight: For each square and state, what is read of it: near 1 where the square is in that state, else near 0.
        constant: Added to it.
        spread: Covariance of the stream where the map was fitted.
    """

    weight: Float[Tensor, "d_model square state"]
    constant: Float[Tensor, "square state"]
    spread: Float[Tensor, "d_model d_model"]

    def read(self, seen: Float[Tensor, "*batch d_model"]) -> Int[Tensor, "*batch square"]:
        """The most likely state of each square."""
        return (torch.einsum("...d,dqs->...qs", seen, self.weight) + self.constant).argmax(-1)

    def turned(
        self, seen: Float[Tensor, "batch d_model"], square: Int[Tensor, " batch"], to: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch d_model"]:
        """What to add to the stream so that a disc is read as MINE or as THEIRS, and as clearly as a disc should be.

        Of all vectors that do so it is the one that is least unusual for this stream: the direction of the reading
        times the spread.

        Source: Haufe et al. 2014, "On the interpretation of weight vectors of linear models in multivariate
        neuroimaging", equation 6.
        """
        along = (self.weight[..., MINE] - self.weight[..., THEIRS]).T[square]
        reading = (seen * along).sum(1) + (self.constant[:, MINE] - self.constant[:, THEIRS])[square]
        wish = torch.where(to == MINE, 1.0, -1.0)
        pattern = along @ self.spread
        return ((wish - reading) / (pattern * along).sum(1))[:, None] * pattern


def fit(seen: Float[Tensor, "batch pos d_model"], known: Int[Tensor, "batch pos square"]) -> Probe:
    """The linear map that comes closest to ones and zeros, by least squares."""
    flat = seen.flatten(0, 1).double()
    wish = one_hot(known.flatten(0, 1), 3).double().flatten(1)
    found = torch.linalg.lstsq(torch.cat([flat, torch.ones(len(flat), 1).double()], 1), wish).solution.float()
    return Probe(found[:-1].unflatten(1, (-1, 3)), found[-1].unflatten(0, (-1, 3)), flat.T.cov().float())


@dataclass(frozen=True)
class Turns:
    """A place in each game and a disc there: with that disc turned round, other moves are legal.

    Attributes:
        row: The game.
        place: After which move.
        square: The disc.
        to: MINE or THEIRS, whose it is when turned.
        before: Squares that may be played on.
        after: Squares that may be played on with the disc turned.
    """

    row: Int[Tensor, " batch"]
    place: Int[Tensor, " batch"]
    square: Int[Tensor, " batch"]
    to: Int[Tensor, " batch"]
    before: Bool[Tensor, "batch square"]
    after: Bool[Tensor, "batch square"]


def turns(games: Games, rng: np.random.Generator) -> Turns:
    """One judged place of each game, and one of its discs that matters; games without one are left out."""
    place = np.where(judged(games).numpy(), rng.random(games.moves.shape), -1).argmax(1)
    row = np.arange(len(place))
    mine, theirs, before = (of[row, place] for of in (games.mine, games.theirs, games.legal))
    disc = np.eye(SQUARES, dtype=bool) & (mine | theirs)[:, None]
    after = allowed_moves(bits(mine[:, None] ^ disc), bits(theirs[:, None] ^ disc))
    matters = (after != before[:, None]).any(-1) & ~after[..., PASS]
    square = np.where(matters, rng.random(matters.shape), -1).argmax(1)
    to = np.where(mine[row, square], THEIRS, MINE)
    kept = matters.any(1)
    found = (row, place, square, to, before[:, :PASS], after[row, square, :PASS])
    return Turns(*(torch.from_numpy(part[kept]) for part in found))


def predicted(
    model: Model, games: Games, at: Turns, change: Float[Tensor, "batch d_model"] | None = None
) -> Float[Tensor, "batch vocab"]:
    """The logits at the places of the turns, with something added to the stream there."""
    edits = [] if change is None else [add(SITE, change[:, None], at=at.place[:, None])]
    logits = model.run(model.tokens(torch.from_numpy(games.moves)[at.row]), edits=edits).logits
    return logits[torch.arange(len(at.place)), at.place]


def errors(logits: Float[Tensor, "batch vocab"], legal: Bool[Tensor, "batch square"]) -> Float[Tensor, " batch"]:
    """How many squares are wrong if as many of the likeliest are held for legal as there are.

    Units: squares; each illegal one that is taken leaves out a legal one, so they come in twos.

    Source: Li et al. 2022, section 4.2.
    """
    rank = logits[:, :SQUARES].argsort(1, descending=True).argsort(1)
    return ((rank < legal.sum(1, keepdim=True)) != legal).sum(1).float()


@method
def examine(trained: Trained, seed: int) -> Findings:
    """Judges the moves, the board read from the stream, and what turning a disc in the stream does to the moves."""
    with measure() as cost, torch.no_grad():
        model = load(trained.network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            fresh = load(untrained().eval())
        fitted = play(np.random.default_rng([seed, 0, 1]), 600)
        held_out = play(np.random.default_rng([seed, 0, 2]), 600, held_out=True)
        legal = is_legal(model, held_out)
        seen, new, known = stream(model, fitted), stream(model, held_out), boards(fitted)
        probe = fit(seen, known)
        read = misread(probe, new, held_out)
        shuffled = misread(fit(seen, other_boards(fitted, seed)), new, held_out)
        plain = misread(fit(stream(fresh, fitted), known), stream(fresh, held_out), held_out)
        at = turns(held_out, np.random.default_rng([seed, 0, 3]))
        change = probe.turned(new[at.row, at.place], at.square, at.to)
        random = torch.randn(change.shape, generator=torch.Generator().manual_seed(seed))
        random = random * (change.norm(dim=1) / random.norm(dim=1))[:, None]
        before, after, control = (
            float(errors(predicted(model, held_out, at, by), at.after).mean()) for by in (None, change, random)
        )
    claims = [
        at_least("held-out games: most likely move is legal", _share(legal[playable(held_out)]), 0.98),
        at_least("of them, after the opening, by which they are held out", _share(legal[judged(held_out)]), 0.97),
        at_least("held-out games: squares read from the stream", 1 - read, 0.88),
        at_most("squares misread, by those misread from a network that was not trained", read / plain, 0.4, "times"),
        at_most(
            "squares misread, by those misread after a fit to boards of other games", read / shuffled, 0.4, "times"
        ),
        at_most(
            "a disc turned in the stream: wrong squares, by those with nothing done", after / before, 0.75, "times"
        ),
        at_least(
            "a random direction of that length: wrong squares, by those with nothing done",
            control / before,
            0.9,
            "times",
        ),
    ]
    curves = {"loss over steps": thinned(trained.losses)}
    return findings("othello-mini", claims, curves, seed=seed, cost=cost)


def other_boards(games: Games, seed: int) -> Int[Tensor, "batch pos square"]:
    """For each place the board of another game after as many moves."""
    known, rng = boards(games), np.random.default_rng(seed)
    return torch.stack([known[rng.permutation(len(known)), place] for place in range(known.shape[1])], 1)


def misread(probe: Probe, seen: Float[Tensor, "batch pos d_model"], games: Games) -> float:
    """The share of squares at judged places that a probe reads wrongly."""
    return _share((probe.read(seen) != boards(games))[judged(games)])


def _share(of: Tensor) -> float:
    return float(of.float().mean())


TOY = TrainedToy(
    name="othello-mini",
    description="A four-layer GPT-2 that says which moves of Othello on 6 × 6 are legal, from the moves so far.",
    cpu_minutes=14.8,
    recipe=recipe,
    examine=examine,
)
