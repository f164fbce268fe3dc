"""Recipes: everything that decides how a dictionary is trained, as values; and the published ones by name.

`TOPK` is a good start. Change one with `dataclasses.replace`: `replace(JUMPRELU, l0=40)`. Where a paper gives steps for
runs of 10⁵ and more, a schedule here takes at most a tenth of a shorter run.
"""

from dataclasses import dataclass, replace
from typing import Literal

from digsite.dictionaries.activations import Activation, BatchTopK, Gated, JumpReLU, Relu, TopK
from digsite.dictionaries.auxiliary import AuxK, GatedAux
from digsite.dictionaries.losses import Loss, Matryoshka, Reconstruction
from digsite.dictionaries.schedules import CONSTANT, Schedule
from digsite.dictionaries.sparsity import L1, GateL1, L0Step, PreAct, Tanh


@dataclass(frozen=True, kw_only=True)
class Term:
    """One summand of what is made small.

    Attributes:
        loss: What.
        coefficient: Its weight.
        schedule: How the weight changes over the run.
    """

    loss: Loss
    coefficient: float = 1.0
    schedule: Schedule = CONSTANT

    @property
    def name(self) -> str:
        """The name of its loss, as it stands in the curves."""
        return type(self.loss).__name__


@dataclass(frozen=True, kw_only=True)
class Start:
    """The first numbers of a new dictionary.

    Attributes:
        length: Of every decoder row, in normalised units.
        gain: Length of every encoder row.
        centre: The written bias is the mean of its column; else zero.
        firing: Encoder biases are such that at first each latent fires on so many latents' worth of rows: a share of
            `firing` / latents, at most a half. None leaves them at zero.
    """

    length: float = 1.0
    gain: float = 1.0
    centre: bool = True
    firing: int | None = None


WARM = Schedule(rise=1000, fall=0.2)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a dictionary is trained.

    Attributes:
        name: For records.
        activation: What a new dictionary for this recipe is made with; the trainer wants one of this kind.
        terms: What is made small.
        scale: Columns are divided by a number such that the mean squared length of a row is 1 ("unit"), or the mean
            length √d ("sqrt_d"), or by nothing.
        start: The first numbers.
        rate: Learning rate; None for 2e-4 / √(latents / 2¹⁴).
        schedule: How the rate changes over the run.
        betas: Of Adam.
        eps: Of Adam.
        clip: Largest norm of the gradient; None for any.
        unit_norm: Decoder rows are kept at length one, and gradients along them are taken off.
        logs: Thresholds are trained in logarithms, else as they are.
        threshold_rate: Their learning rate, as a multiple of `rate`.
        dead_after: Rows without firing after which a latent counts as dead; at most a tenth of the run.
        l0: How many latents should fire in a row, over all blocks; the coefficients of penalties are moved until it is
            so. None leaves them alone.
        resample: How often in the run dead latents are drawn anew.
    """

    name: str
    activation: Activation
    terms: tuple[Term, ...]
    scale: Literal["unit", "sqrt_d", "none"] = "unit"
    start: Start = Start()
    rate: float | None = None
    schedule: Schedule = WARM
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float | None = 1.0
    unit_norm: bool = False
    logs: bool = False
    threshold_rate: float = 1.0
    dead_after: int = 10_000_000
    l0: float | None = None
    resample: int = 0


FVU = Term(loss=Reconstruction(by_variance=True))
ERROR = Term(loss=Reconstruction())
AUXK = Term(loss=AuxK(), coefficient=1 / 32)

TOPK = Recipe(
    name="TopK",
    activation=TopK(k=32),
    terms=(FVU, AUXK),
    eps=6.25e-10,
    unit_norm=True,
)
"""k latents a row; dead ones are revived by what is left over.

Source: Gao et al. 2024, arXiv 2406.04093. The published batch is 131,072 rows and an average of the weights is kept;
the bias starts at the mean instead of the geometric median, and the gradient's length is limited.
"""

BATCHTOPK = Recipe(
    name="BatchTopK",
    activation=BatchTopK(k=32),
    terms=(FVU, AUXK),
    unit_norm=True,
)
"""k latents a row on average. Source: Bussmann et al. 2024, arXiv 2412.06410."""

MATRYOSHKA = Recipe(
    name="Matryoshka",
    activation=BatchTopK(k=32),
    terms=(Term(loss=Matryoshka(by_variance=True)), AUXK),
    unit_norm=True,
)
"""Nested dictionaries (`sae(..., prefixes=...)`), from one choice of latents.

Source: Bussmann et al. 2025, arXiv 2503.17547.
"""

APRIL_2024 = Recipe(
    name="April 2024",
    activation=Relu(),
    terms=(ERROR, Term(loss=L1(), coefficient=5.0, schedule=Schedule(rise=0.05))),
    scale="sqrt_d",
    start=Start(length=0.1, gain=0.1, centre=False),
    rate=5e-5,
    schedule=Schedule(fall=0.2),
)
"""ReLU and L1, decoders of any length.

Source: transformer-circuits.pub/2024/april-update. The published rate is for runs of 200,000 steps: set `rate` higher
for shorter ones.
"""

GATED = Recipe(
    name="Gated",
    activation=Gated(),
    terms=(ERROR, Term(loss=GateL1(), coefficient=0.01, schedule=Schedule(rise=0.05)), Term(loss=GatedAux())),
    betas=(0.0, 0.999),
    rate=3e-4,
    unit_norm=True,
)
"""A gate and a magnitude. Source: Rajamanoharan et al. 2024, arXiv 2404.16014; rate and coefficient are ours."""

JUMPRELU = Recipe(
    name="JumpReLU",
    activation=JumpReLU(start=0.001, bandwidth=0.001),
    terms=(ERROR, Term(loss=L0Step(), coefficient=1e-3, schedule=Schedule(rise=10_000))),
    rate=7e-5,
    schedule=Schedule(rise=1000, shape="cosine"),
    betas=(0.0, 0.999),
    unit_norm=True,
    logs=True,
)
"""A threshold for each latent, and a penalty on how many fire.

Source: Rajamanoharan et al. 2024, arXiv 2407.14435. The window and the start are for columns of unit size; a window
that is so narrow leaves thresholds almost without gradient in short runs: see `JUMPRELU_SHORT`.
"""

JUMPRELU_SHORT = Recipe(
    name="JumpReLU short",
    activation=JumpReLU(start=0.1, bandwidth=0.3, through=True),
    terms=(ERROR, Term(loss=Tanh(c=4.0), coefficient=0.01, schedule=Schedule(rise=0.1))),
    schedule=Schedule(rise=0.05, fall=0.3),
    unit_norm=True,
    logs=True,
    l0=32.0,
)
"""JumpReLU for runs of thousands of steps: as in January 2025, with a wished L0 and columns of unit size. Numbers ours.

On planted features it finds more than `JUMPRELU` in as many steps (docs/dictionaries.md).
"""

JAN_2025 = Recipe(
    name="January 2025",
    activation=JumpReLU(start=0.1, bandwidth=2.0, through=True),
    terms=(
        ERROR,
        Term(loss=Tanh(c=4.0), coefficient=20.0, schedule=Schedule(rise=1.0)),
        Term(loss=PreAct(), coefficient=3e-6),
    ),
    scale="sqrt_d",
    start=Start(centre=False, firing=10_000),
    rate=2e-4,
    schedule=Schedule(fall=0.2),
    logs=True,
)
"""JumpReLU with a tanh penalty that rises over the whole run; gradients reach pre-activations through the jump.

Source: transformer-circuits.pub/2025/january-update; there decoders start as uniform numbers within ±1/d, here at
length one.
"""

TRANSCODER = Recipe(
    name="transcoder",
    activation=TopK(k=32),
    terms=(FVU, AUXK),
    unit_norm=False,
)
"""TopK from what goes into an MLP to what comes out.

Source: Dunefsky et al. 2024, arXiv 2406.11944, with TopK as in Paulo et al. 2025, arXiv 2501.18823.
"""

CROSSCODER = Recipe(
    name="crosscoder",
    activation=BatchTopK(k=32, by_norm=True),
    terms=(FVU, AUXK),
)
"""Latents ranked by value × length over all columns, so that none is kept alive by a long decoder.

Source: Minder et al. 2025, arXiv 2504.02922. With `L1()` instead it is that of Lindsey et al. 2024.
"""

CLT = replace(
    JAN_2025,
    name="CLT",
    activation=JumpReLU(start=0.03, bandwidth=1.0, through=True),
    terms=(
        ERROR,
        Term(loss=Tanh(c=1.0), coefficient=2.0, schedule=Schedule(rise=1.0)),
        Term(loss=PreAct(), coefficient=3e-6),
    ),
)
"""The recipe of January 2025 over all layers. A CLT of TopK latents is trained with `TRANSCODER`.

Source: Ameisen et al. 2025, transformer-circuits.pub/2025/attribution-graphs/methods; numbers are those that
re-implementations use.
"""

MOLT = Recipe(
    name="MOLT",
    activation=JumpReLU(start=0.03, bandwidth=1.0, through=True),
    terms=(
        ERROR,
        Term(loss=Tanh(c=1.0), coefficient=2.0, schedule=Schedule(rise=1.0)),
    ),
    scale="sqrt_d",
    start=Start(centre=False),
    rate=2e-4,
    schedule=Schedule(fall=0.2),
    logs=True,
)
"""A penalty on value × |U V|. Source: transformer-circuits.pub/2025/bulk-update; numbers ours."""

RECIPES = {
    recipe.name: recipe
    for recipe in (
        *(TOPK, BATCHTOPK, MATRYOSHKA, APRIL_2024, GATED, JUMPRELU, JUMPRELU_SHORT, JAN_2025),
        *(TRANSCODER, CROSSCODER, CLT, MOLT),
    )
}
"""Every recipe by name."""
