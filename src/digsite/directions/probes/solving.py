"""The linear fits, for many cells and many labellings in one batch of solves.

A cell is one place that is probed: a site at a position. All cells have the same examples, so their activations are one
tensor [cell, example, width]; the labellings [draw, example] are the true one, which comes first, and shuffled ones for
a null. One fit alone is the case of one cell and one labelling (`fits`). Everything is in float64.

1. Where there are fewer examples than coordinates, a cell is turned into as many coordinates as there are examples:
   no fit that is penalised by length looks outside what the examples span.
2. Closed forms share one factorisation among all labellings of a cell.
3. The penalty of ridge and logistic is chosen on thirds of the examples by the true labelling, each cell for itself;
   examples are dealt out to thirds by their rank among those of their label, so that the two of a pair, which have
   the same rank, stay together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

PENALTIES = (0.01, 0.1, 1.0)
"""Inverse strengths C of the logistic penalty, as scikit-learn counts them: C Σ loss + |w|²/2."""
SHRINKS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Ridge penalties, where the variance of a coordinate is 1."""
ROUNDING = 1e-6
"""A coordinate that varies by less than this, by the root mean square of the cell, is constant."""
STEPS = 50
"""Newton steps at most; about eight are needed."""
_NUMBERS = 2**24
"""Numbers that the Newton steps hold at once; 128 MB."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Readers:
    """What was fitted in every cell under every labelling.

    Attributes:
        reader: What reads.
        bias: Added to a reading, so that 0 is the boundary.
        vector: What is written, where that is another vector.
    """

    reader: Float[Tensor, "cell draw width"]
    bias: Float[Tensor, "cell draw"]
    vector: Float[Tensor, "cell draw width"] | None = None

    def scores(self, x: Float[Tensor, "cell example width"]) -> Float[Tensor, "cell draw example"]:
        """The score of every example in every cell, by the probe of every labelling."""
        return self.reader @ x.double().mT + self.bias[..., None]


Solver = Callable[[Float[Tensor, "cell example width"], Bool[Tensor, "draw example"]], Readers]
"""Activations of cells, and labellings of their examples, to a probe for each of both."""


def mean_differences(x: Float[Tensor, "cell example width"], labels: Bool[Tensor, "draw example"]) -> Readers:
    """d = the mean with the label minus the mean without; the boundary lies halfway."""
    yes, no = means(x, labels)
    return _halfway(yes, no, yes - no)


def whitened(x: Float[Tensor, "cell example width"], labels: Bool[Tensor, "draw example"]) -> Readers:
    """S⁻¹ d with S the covariance within the classes, shrunk; the boundary lies halfway between the means.

    With T the covariance of all examples, p and q the shares of the classes, S = T - p q d dᵀ. What is inverted is
    (1 - γ) S + γ μ 1, with μ the mean variance of a coordinate (over T) and γ by Ledoit and Wolf, and by
    Sherman-Morrison one factorisation of (1 - γ) T + γ μ 1 serves all labellings.
    """
    yes, no = means(x, labels)
    d = yes - no
    small, back = compact(x - x.mean(1, keepdim=True))
    n, width = x.shape[1:]
    T = small.mT @ small / n
    gamma, mu = shrinkage(small, T, width)
    share = labels.double().mean(1)
    floor = torch.where(mu > 0, gamma * mu, 1.0)[:, None, None] * torch.eye(T.shape[-1], dtype=T.dtype)
    inside = d if back is None else d @ back
    found = _solve((1 - gamma)[:, None, None] * T + floor, inside)
    between = (1 - gamma)[:, None] * share * (1 - share) * (found * inside).sum(-1)
    found = found / (1 - between).clamp_min(1e-12)[..., None]
    return _halfway(yes, no, found if back is None else found @ back.mT)


def mass_means(x: Float[Tensor, "cell example width"], labels: Bool[Tensor, "draw example"]) -> Readers:
    """Reads with S⁻¹ d and writes d; see `whitened`."""
    read, (yes, no) = whitened(x, labels), means(x, labels)
    return Readers(reader=read.reader, bias=read.bias, vector=yes - no)


def ridges(x: Float[Tensor, "cell example width"], labels: Bool[Tensor, "draw example"]) -> Readers:
    """Least squares to +1 and -1 on standardised coordinates, examples of both labels weighing alike; penalised."""
    return _penalised(x, labels, SHRINKS, _ridge)


def logistics(
    x: Float[Tensor, "cell example width"],
    labels: Bool[Tensor, "draw example"],
    penalties: tuple[float, ...] = PENALTIES,
) -> Readers:
    """Log odds on standardised coordinates, examples of both labels weighing alike; penalised, by Newton steps."""
    return _penalised(x, labels, penalties, _newton)


SOLVERS: MappingProxyType[str, Solver] = MappingProxyType(
    {
        "logistic": logistics,
        "ridge": ridges,
        "lda": whitened,
        "mass-mean": mass_means,
        "mean-difference": mean_differences,
    }
)
"""The fits that are solved for many cells at once; call them through `solve`."""


def solve(fit: str, x: Float[Tensor, "cell example width"], labels: Bool[Tensor, "draw example"]) -> Readers:
    """Fits a probe in every cell under every labelling.

    Args:
        fit: One of `SOLVERS`.
        x: Activations, finite.
        labels: Labellings, each with examples of both labels; the true one first.
    """
    return SOLVERS[fit](settled(x), labels)


def settled(x: Float[Tensor, "cell example width"]) -> Float[Tensor, "cell example width"]:
    """In float64, with zeros where a coordinate varies by rounding alone.

    A BOS has the same activation in every prompt, but its last bits differ between batches, and labels often do, too.
    """
    x = x.double()
    varies = x.std(1, correction=0, keepdim=True) > ROUNDING * x.square().mean((1, 2), keepdim=True).sqrt()
    return x.where(varies, 0.0)


# -- parts -----------------------------------------------------------------------------------------------------------
def means(
    x: Float[Tensor, "cell example width"], labels: Bool[Tensor, "draw example"]
) -> tuple[Float[Tensor, "cell draw width"], Float[Tensor, "cell draw width"]]:
    """The mean of the examples with the label, and of those without."""
    yes, no = labels.double(), (~labels).double()
    return yes / yes.sum(1, keepdim=True) @ x, no / no.sum(1, keepdim=True) @ x


def compact(
    x: Float[Tensor, "cell example width"],
) -> tuple[Float[Tensor, "cell example k"], Float[Tensor, "cell width k"] | None]:
    """1. Coordinates in what the examples span, and the basis that leads back; None where nothing is saved."""
    if x.shape[1] >= x.shape[2]:
        return x, None
    basis, coordinates = torch.linalg.qr(x.mT)
    return coordinates.mT, basis


def shrinkage(
    x: Float[Tensor, "cell example k"], covariance: Float[Tensor, "cell k k"], width: int
) -> tuple[Float[Tensor, " cell"], Float[Tensor, " cell"]]:
    """How far a covariance is drawn towards μ times the identity, and μ, the mean variance of a coordinate.

    Source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", lemma 3.2
    and section 3.2: γ = min(b̄², δ²) / δ².
    """
    mu = covariance.diagonal(dim1=1, dim2=2).sum(1) / width
    size = covariance.square().sum((1, 2))
    far = size - width * mu.square()
    noise = (x.square().sum(2).square().mean(1) - size) / x.shape[1]
    gamma = torch.where(far > 0, noise / far.clamp_min(1e-300), 1.0)
    return gamma.clamp(1e-6, 1), mu


def thirds(labels: Bool[Tensor, " example"]) -> Int[Tensor, " example"] | None:
    """3. The third of each example: its rank among those of its label, modulo three. None where a label has too few."""
    yes = int(labels.sum())
    if min(yes, len(labels) - yes) < 3:
        return None
    return torch.where(labels, labels.cumsum(0), (~labels).cumsum(0)) % 3


def least_squares(
    x: Float[Tensor, "example width"], y: Float[Tensor, "example target"], penalty: float
) -> tuple[Float[Tensor, "target width"], Float[Tensor, " target"]]:
    """Minimises the mean of |W x + b - y|² + penalty |W|² on standardised coordinates; gives W and b for raw ones."""
    standard = Standard.of(x[None].double())
    z, middle = standard.z, y.double().mean(0)
    A = z.mT @ z / len(y) + penalty * torch.eye(z.shape[2], dtype=z.dtype)
    found = standard.back(_solve(A, (y.double() - middle).T @ z / len(y)), middle[None])
    return found.reader[0], found.bias[0]


def _halfway(yes: Tensor, no: Tensor, reader: Tensor) -> Readers:
    return Readers(reader=reader, bias=-((yes + no) * reader).sum(-1) / 2)


def _solve(A: Float[Tensor, "cell k k"], rows: Float[Tensor, "cell draw k"]) -> Float[Tensor, "cell draw k"]:
    return torch.cholesky_solve(rows.mT, torch.linalg.cholesky(A)).mT


_Penalised = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Coordinates [cell, example, k], labellings [draw, example] and penalties [cell] to weights and constants."""


def _penalised(x: Tensor, labels: Tensor, penalties: tuple[float, ...], solve: _Penalised) -> Readers:
    """Standardised, the penalty chosen, fitted, and mapped back to the coordinates that x has."""
    cells, several = len(x), torch.tensor(penalties, dtype=torch.float64)
    chosen = several[len(several) // 2].expand(cells)
    part = thirds(labels[0])
    if part is not None and len(several) > 1:
        loss = torch.zeros(cells, len(several), dtype=torch.float64)
        for third in range(3):
            kept = part != third
            fit = Standard.of(x[:, kept])
            # All penalties at once, each a cell of its own.
            z = fit.z.repeat_interleave(len(several), 0)
            found = solve(z, labels[:1, kept], several.repeat(cells))
            w, b = (one.unflatten(0, (cells, len(several))).squeeze(2) for one in found)
            loss += _log_loss(fit.back(w, b).scores(x[:, ~kept]), labels[0, ~kept])
        chosen = several[loss.argmin(1)]
    fit = Standard.of(x)
    return fit.back(*solve(fit.z, labels, chosen))


@dataclass(frozen=True, eq=False)
class Standard:
    """Activations with mean 0 and variance 1 in every coordinate, as compact as can be."""

    z: Float[Tensor, "cell example k"]
    mean: Float[Tensor, "cell 1 width"]
    sd: Float[Tensor, "cell 1 width"]
    basis: Float[Tensor, "cell width k"] | None

    @classmethod
    def of(cls, x: Float[Tensor, "cell example width"]) -> "Standard":
        """Of activations as they are."""
        mean = x.mean(1, keepdim=True)
        sd = x.std(1, correction=0, keepdim=True)
        # A coordinate that is constant here, though not everywhere, is left alone and not blown up to 1.
        sd = torch.where(sd > 1e-10 * mean.abs().clamp_min(1e-30), sd, torch.inf)
        z, basis = compact((x - mean) / sd)
        return cls(z, mean, sd, basis)

    def back(self, weights: Float[Tensor, "cell draw k"], constants: Float[Tensor, "cell draw"]) -> Readers:
        """The same reading of raw activations."""
        reader = (weights if self.basis is None else weights @ self.basis.mT) / self.sd
        return Readers(reader=reader, bias=constants - (reader * self.mean).sum(-1))


def _balance(labels: Bool[Tensor, "draw example"]) -> Float[Tensor, "draw example"]:
    """Weights of the examples: 1 on average, the same sum for both labels."""
    share = labels.double().mean(1, keepdim=True)
    return torch.where(labels, 0.5 / share, 0.5 / (1 - share))


def _log_loss(scores: Float[Tensor, "cell draw example"], labels: Bool[Tensor, " example"]) -> Tensor:
    return (_balance(labels[None])[0] * softplus(torch.where(labels, -scores, scores))).sum(-1)


def _ridge(z: Tensor, labels: Tensor, penalties: Tensor) -> tuple[Tensor, Tensor]:
    """Minimises the weighted mean of (w·z + b ∓ 1)² + penalty |w|².

    The weights, and with them mean and covariance, go with the labelling, so each has its own factorisation.
    """
    out = []
    for known, weight in zip(labels, _balance(labels), strict=True):
        share = weight / len(weight)
        middle = share @ z
        centred = z - middle[:, None]
        A = centred.mT @ (share[:, None] * centred)
        A = A + penalties[:, None, None] * torch.eye(A.shape[-1], dtype=A.dtype)
        target = (share * torch.where(known, 1.0, -1.0)) @ centred
        w = _solve(A, target[:, None])[:, 0]
        out.append((w, -(w * middle).sum(-1)))
    return torch.stack([w for w, _ in out], 1), torch.stack([b for _, b in out], 1)


def _newton(z: Tensor, labels: Tensor, penalties: Tensor) -> tuple[Tensor, Tensor]:
    """Minimises C Σ weight · log(1 + exp(∓ (w·z + b))) + |w|²/2: Newton steps, halved where they overshoot."""
    cells, n, k = z.shape
    ones = torch.cat([z, torch.ones(cells, n, 1, dtype=z.dtype)], 2)
    at_once = max(1, _NUMBERS // (cells * max(n, k + 1) * (k + 1)))
    parts = [_newton_steps(ones, some, penalties) for some in labels.split(at_once)]
    found = torch.cat(parts, 1)
    return found[..., :-1], found[..., -1]


def _newton_steps(z: Tensor, labels: Tensor, C: Tensor) -> Float[Tensor, "cell draw k"]:
    weight = C[:, None, None] * _balance(labels)
    sign = torch.where(labels, 1.0, -1.0).to(z.dtype)
    penalty = torch.ones(z.shape[2], dtype=z.dtype)
    penalty[-1] = 1e-10  # the constant is free

    def loss(w: Tensor) -> Tensor:
        return (weight * softplus(-sign * (w @ z.mT))).sum(-1) + (penalty * w.square()).sum(-1) / 2

    w = torch.zeros(len(z), len(labels), z.shape[2], dtype=z.dtype)
    now = loss(w)
    for _ in range(STEPS):
        p = torch.sigmoid(w @ z.mT)
        gradient = (weight * (p - labels.to(p))) @ z + penalty * w
        curve = (weight * p * (1 - p)).sqrt()[..., None] * z[:, None]
        step = torch.linalg.solve(curve.mT @ curve + torch.diag(penalty), gradient)
        if float((gradient * step).sum(-1).amax()) < 1e-10:
            break
        length = torch.ones_like(now)
        while bool((worse := loss(w - length[..., None] * step) > now + 1e-12 * now.abs()).any()):
            length = torch.where(worse, length / 2, length).where(length > 1e-4, 0.0)
        w = w - length[..., None] * step
        now = loss(w)
    return w
