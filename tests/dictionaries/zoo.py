"""One small dictionary of every family and with every activation, filled with numbers."""

from typing import Any

import torch

from digsite.dictionaries import (
    AbsTopK,
    BatchTopK,
    Dictionary,
    Free,
    Gated,
    GroupMax,
    JumpReLU,
    LowRank,
    PerSource,
    PerTarget,
    Relu,
    TopK,
    clt,
    crosscoder,
    jacobian_pair,
    molt,
    sae,
    transcoder,
)

READS = {f"layers.{layer}.mlp.norm": 6 for layer in range(3)}
WRITES = {f"layers.{layer}.mlp.out": 6 for layer in range(3)}
A, B = {"layers.0.mlp.norm": 6}, {"layers.0.mlp.out": 5}

FAMILIES = {
    "relu": lambda: sae(A, 12, Relu()),
    "topk": lambda: sae(A, 12, TopK(k=3)),
    "topk by norm": lambda: sae(A, 12, TopK(k=3, by_norm=True)),
    "batchtopk": lambda: sae(A, 12, BatchTopK(k=3)),
    "jumprelu": lambda: sae(A, 12, JumpReLU(start=0.3, bandwidth=0.1)),
    "gated": lambda: sae(A, 12, Gated()),
    "abstopk": lambda: sae(A, 12, AbsTopK(k=3)),
    "groupmax": lambda: sae(A, 12, GroupMax(k=3)),
    "matryoshka": lambda: sae(A, 12, BatchTopK(k=3), prefixes=(3, 6, 12)),
    "tokenized": lambda: sae(A, 12, TopK(k=3), tokens=7),
    "transcoder": lambda: transcoder(A, B, 12, TopK(k=3)),
    "skip transcoder": lambda: transcoder(A, B, 12, TopK(k=3), skip=True),
    "crosscoder": lambda: crosscoder({"base:embed": 6, "tuned:embed": 6}, 12, Relu()),
    "shared crosscoder": lambda: crosscoder({"base:embed": 6, "tuned:embed": 6}, 12, TopK(k=3), shared=4),
    "clt": lambda: clt(READS, WRITES, 12, TopK(k=3), decoder=Free()),
    "clt per source": lambda: clt(READS, WRITES, 12, Relu(), decoder=PerSource()),
    "clt per target": lambda: clt(READS, WRITES, 12, TopK(k=3), decoder=PerTarget()),
    "clt low rank": lambda: clt(READS, WRITES, 12, JumpReLU(start=0.3), decoder=LowRank(rank=2)),
    "molt": lambda: molt(A, B, [(2, 3), (4, 1)], Relu()),
    "jacobian pair": lambda: jacobian_pair(A, B, 12, TopK(k=3)),
}


def filled(name: str, seed: int = 0) -> Any:
    """A dictionary of that family whose every number is drawn; thresholds are positive."""
    dictionary, drawn = FAMILIES[name](), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for where, x in [*dictionary.named_parameters(), *dictionary.named_buffers()]:
            new = torch.randn(x.shape, generator=drawn)
            x.copy_(new.abs() * 0.3 if where.endswith("threshold") else new)
    return dictionary.eval()


def rows_for(dictionary: Dictionary, count: int = 9, seed: int = 1) -> dict[str, torch.Tensor]:
    """Activations for every column that it reads or writes."""
    drawn = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(count, column.width, generator=drawn) for name, column in dictionary.config.columns.items()
    }
