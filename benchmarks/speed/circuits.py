"""Edge attribution and the evaluation of circuits, beside EAP-IG, the package that most people use.

1. GPT-2 small's shape with random weights, 4 pairs of prompts of 20 tokens that differ at the 13th, as pairs of tasks
   do (one name is another). The same weights in TransformerLens' own model, which EAP-IG needs, in one process and
   thread.
2. Results first: every edge's score, and the metric of every circuit.
3. The same for a Llama whose query heads share keys and values. EAP-IG has an edge into the key of every query head;
   those of a group are summed, for ours is an edge into what they share.
4. Then interleaved rounds of processor time. RelP has no counterpart there and is held against our own EAP.
5. EAP-IG 2.0 puts its arrays on "cuda" by name and tokenizes strings; both are answered from outside, its code is as
   it is.
6. Memory: how far one attribution pushes the peak of a process of its own beyond what its models and one plain forward
   and backward pass took.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

import digsite
from digsite.circuits import eap, eap_ig, evaluate_circuit, relp
from digsite.graphs import edge_space
from digsite.graphs.circuit import prune
from digsite.models.tokens import given
from digsite.tasks import Task
from digsite.tasks.answers import Answers

from .access import SETTINGS, plain
from .memory import peak
from .rounds import apart, interleaved
from .table import Row, Table, conditions

CONFIG = SETTINGS[0].config
GROUPED = LlamaConfig(
    num_hidden_layers=6,
    hidden_size=256,
    intermediate_size=1024,
    num_attention_heads=8,
    num_key_value_heads=2,
    vocab_size=CONFIG.vocab_size,
)
PAIRS, LENGTH, DIFFERS = 4, 20, 12
STEPS = 5
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
TOLD = {"EAP": "EAP", "EAP-IG": f"EAP-IG, {STEPS} steps", "evaluation": f"evaluation of {len(SHARES)} circuits"}
TARGETS = {"EAP": 4.0, "EAP-IG": 3.0, "evaluation": 3.0, "RelP": 1 / 1.3}
MEMORY_TARGET = 0.5
TOLERANCE = 1e-5
METRIC_TOLERANCE = 1e-3
ROUNDS = 5


def pairs(n: int = PAIRS, length: int = LENGTH, vocab: int = CONFIG.vocab_size) -> Task:
    """Random prompts in pairs that differ behind their middle, each with a right and a wrong next token."""
    generator = torch.Generator().manual_seed(0)
    clean, answers = (torch.randint(vocab, shape, generator=generator) for shape in ((n, length), (2, n, 1, 1)))
    corrupt = clean.clone()
    corrupt[:, DIFFERS] = (corrupt[:, DIFFERS] + 1) % vocab
    rows = torch.arange(n)[:, None]
    right, wrong = (Answers(ids, torch.ones_like(ids, dtype=torch.bool), rows, (("",),) * n) for ids in answers)
    return Task(
        name="random pairs",
        question="?",
        clean=given(clean, None),
        corrupt=given(corrupt, None),
        right=right,
        wrong=wrong,
        spans={},
        groups=("",) * n,
    )


class Peer:
    """EAP-IG on the same weights and pairs."""

    def __init__(self, hf: Any, task: Task):
        from eap.graph import Graph

        from .peers import hooked_llama, hooked_transformer

        self.task = task
        make: Callable[..., Any] = hooked_llama if isinstance(hf.config, LlamaConfig) else hooked_transformer
        self.model = make(hf, hf.config)
        self.model.requires_grad_(requires_grad=True)
        for option in ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in"):
            setattr(self.model.cfg, option, True)
        self.model.setup()
        self.graph = Graph.from_model(self.model)
        self.data = [(task.clean.ids, task.require_corrupt().ids, None)]

    def metric(self, logits: Tensor, *_: Any) -> Tensor:
        """Minus the logit difference, summed: so that a score is the drop, as ours."""
        return -self.task.metric(logits[:, -1:]).sum()

    def scores(self, method: str) -> Tensor:
        """The score of every edge."""
        from eap import attribute

        with _on_cpu():
            if method == "EAP":
                return attribute.get_scores_eap(self.model, self.graph, self.data, self.metric, quiet=True)
            return attribute.get_scores_eap_ig(self.model, self.graph, self.data, self.metric, STEPS, quiet=True)

    def evaluate(self, kept: Tensor) -> Tensor:
        """The metric of each circuit, one `evaluate_graph` after the other, as its notebooks do."""
        from eap import evaluate

        found = []
        for one in kept:
            self.graph.in_graph[:] = one
            self.graph.nodes_in_graph[:] = True
            with _on_cpu(), torch.no_grad():
                each = evaluate.evaluate_graph(self.model, self.graph, self.data, self._each, quiet=True)
            found.append(each)
        return torch.stack(found)

    def _each(self, logits: Tensor, *_: Any) -> Tensor:
        return self.task.metric(logits[:, -1:])


@contextlib.contextmanager
def _on_cpu() -> Iterator[None]:
    """EAP-IG without a GPU, and with ids where it would tokenize strings."""
    from eap import attribute, evaluate

    class Here:
        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

        def zeros(self, *shape: Any, device: Any = None, **rest: Any) -> Tensor:
            return torch.zeros(*shape, **rest)

    def given_ids(model: Any, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        return ids, torch.ones_like(ids), torch.full((len(ids),), ids.shape[1]), ids.shape[1]

    kept = [(module, module.torch, module.tokenize_plus) for module in (attribute, evaluate)]
    for module, _, _ in kept:
        module.torch, module.tokenize_plus = Here(), given_ids
    try:
        yield
    finally:
        for module, whole, tokenize in kept:
            module.torch, module.tokenize_plus = whole, tokenize


def comparable(scores: Tensor, writers: tuple[str, ...]) -> Tensor:
    """Ours without learned positions, which EAP-IG has no node for."""
    return scores[[i for i, name in enumerate(writers) if name != "pos_embed"]]


def measure(*, peers: bool, rounds: int | None) -> Table:
    """Runs the benchmark."""
    model, task = digsite.load(plain(CONFIG)), pairs()
    space = edge_space(model)
    order = eap(model, task).mean().abs().masked_fill(~space.real, -1.0).flatten().argsort(descending=True)
    kept = torch.zeros(len(SHARES), *space.real.shape, dtype=torch.bool)
    for one, share in zip(kept, SHARES, strict=True):
        one.view(-1)[order[: int(share * len(space))]] = True
    kept = prune(space, kept)
    ours: dict[str, Callable[[], Tensor]] = {
        "EAP": lambda: comparable(eap(model, task).mean(), space.writers),
        "EAP-IG": lambda: comparable(eap_ig(model, task, steps=STEPS).mean(), space.writers),
        "evaluation": lambda: evaluate_circuit(model, task, kept),
    }
    there = peers and find_spec("eap") is not None
    peer = Peer(plain(CONFIG), task) if there else None
    setting = f"12 layers × 768 (GPT-2 small), {PAIRS} × {LENGTH} tokens, {len(space):,} edges"
    theirs = {name: partial(_theirs, peer, name, kept, space.writers) for name in ours} if peer else {}
    rows = _beside(setting, ours, theirs, rounds or ROUNDS)
    rows += _relp(setting, model, task, rounds or ROUNDS)
    if peer:
        rows += _memory(setting, grouped=False)
    del model, peer, theirs
    rows += _grouped(task, rounds or ROUNDS, beside=there)
    return Table(
        name="circuits",
        question="How much faster and smaller is edge attribution than EAP-IG's, at equal scores?",
        unit="ms, and MB where it says memory",
        better="higher",
        rows=rows,
        conditions=conditions(rounds=rounds or ROUNDS, time="process CPU", dtype="float32"),
        left_out=[] if there or not peers else ["EAP-IG (not installed)"],
    )


def _beside(
    setting: str,
    ours: dict[str, Callable[[], Tensor]],
    theirs: dict[str, Callable[[], Tensor]],
    rounds: int,
    *,
    of_largest: bool = False,
) -> list[Row]:
    """Rows of both, where the peer is there, and of ours alone where it is not; the tolerance may be a share of the
    largest number."""
    rows = []
    for name, call in ours.items():
        calls = {"EAP-IG 2.0": theirs[name], "digsite": call} if theirs else {"digsite": call}
        found = [run() for run in calls.values()]
        exact = METRIC_TOLERANCE if name == "evaluation" else TOLERANCE
        if of_largest:
            exact *= float(found[0].abs().max())
        timings = interleaved(list(calls.values()), rounds=rounds, warm=0)
        for who, timing, one in zip(calls, timings, found, strict=True):
            rows.append(
                Row(
                    setting=setting,
                    who=who,
                    name=TOLD[name],
                    value=timing.ms,
                    ratio=1 / timing.ratio,
                    low=1 / timing.high,
                    high=1 / timing.low,
                    apart=apart(one, found[0]),
                    tolerance=exact,
                    target=TARGETS[name] if who == "digsite" and theirs else None,
                )
            )
    return rows


def _theirs(peer: Peer, name: str, kept: Tensor, writers: tuple[str, ...]) -> Tensor:
    if name != "evaluation":
        return peer.scores(name).detach()
    return peer.evaluate(torch.stack([comparable(one, writers) for one in kept]))


def _relp(setting: str, model: digsite.Model, task: Task, rounds: int) -> list[Row]:
    first, second = interleaved([lambda: eap(model, task), lambda: relp(model, task)], rounds=rounds, warm=1)
    target = TARGETS["RelP"]
    return [
        Row(
            setting=f"{setting}; against our own EAP",
            who="digsite",
            name=name,
            value=timing.ms,
            ratio=1 / timing.ratio,
            low=1 / timing.high,
            high=1 / timing.low,
            target=target if name == "RelP" else None,
        )
        for name, timing in (("EAP", first), ("RelP", second))
    ]


def _grouped(task: Task, rounds: int, *, beside: bool) -> list[Row]:
    """EAP and EAP-IG where query heads share keys and values."""
    hf = weights(grouped=True)
    model = digsite.load(hf, verify=False)
    setting = (
        f"{GROUPED.num_hidden_layers} layers × {GROUPED.hidden_size}, {GROUPED.num_attention_heads} heads, "
        f"{GROUPED.num_key_value_heads} of keys and values (Llama), {PAIRS} × {LENGTH} tokens, "
        f"{len(edge_space(model)):,} edges"
    )
    ours: dict[str, Callable[[], Tensor]] = {
        "EAP": lambda: eap(model, task).mean(),
        "EAP-IG": lambda: eap_ig(model, task, steps=STEPS).mean(),
    }
    peer = Peer(hf, task) if beside else None
    theirs = {name: partial(_shared, peer, name) for name in ours} if peer else {}
    return _beside(setting, ours, theirs, rounds, of_largest=True) + (_memory(setting, grouped=True) if peer else [])


def _shared(peer: Peer, name: str) -> Tensor:
    """The peer's scores, those of the query heads that share a key (or value) summed."""
    heads, shared = GROUPED.num_attention_heads, GROUPED.num_key_value_heads
    scores = peer.scores(name).detach()
    layers = scores[:, :-1].unflatten(1, (GROUPED.num_hidden_layers, -1))  # the last is of the logits
    q, k, v, mlp = layers.split((heads, heads, heads, 1), 2)
    k, v = (part.unflatten(2, (shared, -1)).sum(3) for part in (k, v))
    return torch.cat([torch.cat([q, k, v, mlp], 2).flatten(1), scores[:, -1:]], 1)


def weights(*, grouped: bool) -> Any:
    """A Hugging Face model with random weights: GPT-2 small, or the Llama."""
    if not grouped:
        return plain(CONFIG)
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(GROUPED, attn_implementation="eager")
    return hf.eval().requires_grad_(requires_grad=False)


def _memory(setting: str, *, grouped: bool) -> list[Row]:
    used = {who: _in_own_process(who, grouped=grouped) for who in ("EAP-IG 2.0", "digsite")}
    base = used["EAP-IG 2.0"]
    return [
        Row(
            setting=setting,
            who=who,
            name="EAP, extra memory (MB)",
            value=value,
            ratio=base / value,
            target=1 / MEMORY_TARGET if who == "digsite" else None,
        )
        for who, value in used.items()
    ]


def _in_own_process(who: str, *, grouped: bool) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.circuits", who, "grouped" if grouped else "whole"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    hf, task = weights(grouped=sys.argv[2] == "grouped"), pairs()
    if sys.argv[1] == "digsite":
        model = digsite.load(hf, verify=False)
        # One pass back and forth, so that what every gradient method needs is already counted.
        run = model.run(task.clean, read="layers.0.resid_pre", logits=1, grad=True)
        torch.autograd.grad(task.metric(run.logits).sum(), run["layers.0.resid_pre"])
        before = peak()
        eap(model, task)
    else:
        peer = Peer(hf, task)
        for option in ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in"):
            setattr(peer.model.cfg, option, False)
        peer.metric(peer.model(task.clean.ids)).backward()
        peer.model.zero_grad()
        for option in ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in"):
            setattr(peer.model.cfg, option, True)
        before = peak()
        peer.scores("EAP")
    print(peak() - before)
