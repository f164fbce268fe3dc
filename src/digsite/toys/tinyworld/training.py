"""Training of `digsite/tinyworld`, from nothing but a seed.

1. An ordinary transformers Llama with random weights; documents of the world made on the fly.
2. Next-token loss over every token of every document; answers weigh `ANSWER_WEIGHT` times as much as other tokens,
   because most other tokens (which name, which gift) cannot be foretold by anybody.
3. AdamW, warm-up and cosine. Every `SAVE_EVERY` steps the whole state is written, so that a killed run goes on from
   there and ends in the same weights.
4. At the end: the held-out table, and a folder that transformers can load, written whole or not at all.
"""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from digsite._core.errors import BadInput, explain
from digsite._core.files import whole_folder, write_whole
from digsite._core.progress import track
from digsite.toys.tinyworld.card import card
from digsite.toys.tinyworld.documents import Author, Rows
from digsite.toys.tinyworld.evaluation import evaluate
from digsite.toys.tinyworld.vocabulary import BOS, CONTEXT, EOS, PAD, tokenizer, vocabulary

ANSWER_WEIGHT = 4.0
SAVE_EVERY = 250


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the shipped model was trained; the card prints it.

    Args:
        steps: Optimiser steps.
        tokens: Tokens of documents a step.
        seed: Of the weights and of the documents.
        peak_rate: Learning rate after warm-up.
        warm_up: Steps to reach it.
        weight_decay: Of the matrices.
        threads: Processor threads; two are faster on two free cores, one where others work too.
    """

    steps: int = 4500
    tokens: int = 4400
    seed: int = 0
    peak_rate: float = 2e-3
    warm_up: int = 100
    weight_decay: float = 0.05
    threads: int = 1


def config() -> LlamaConfig:
    """Four layers, eight heads of 16: small enough to train in half an hour, deep enough for two hops."""
    words = vocabulary()
    return LlamaConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=words[BOS],
        eos_token_id=words[EOS],
        pad_token_id=words[PAD],
    )


def train(out: str | Path, training: Training | None = None) -> Path:
    """Train the model and write it as a folder that transformers can load.

    Args:
        out: Where; beside it `<out>.training` keeps the state until the end.
        training: Steps, seed and the rest.

    Returns:
        The folder.

    Raises:
        BadInput: Fewer than one step, or an unfinished training with other settings lies beside `out`.
    """
    training = training or Training()
    if training.steps < 1:
        raise BadInput(explain("Training needs at least one step", found=f"steps={training.steps}"))
    out = Path(out)
    threads = torch.get_num_threads()
    torch.set_num_threads(training.threads)
    try:
        run = _Run(training, Path(f"{out}.training"))
        for step in track(range(run.done, training.steps), "training tinyworld"):
            run.advance(step)
        return run.finish(out)
    finally:
        torch.set_num_threads(threads)


class _Run:
    """The state of one training: weights, optimiser, steps done, processor seconds spent."""

    def __init__(self, training: Training, state: Path):
        self.training, self.state = training, state
        self.file = state / "state.safetensors"
        self.author = Author()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.network = LlamaForCausalLM(config())
        self.network.train()
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), betas=(0.9, 0.98), weight_decay=training.weight_decay, fused=True
        )
        self.done, self.cpu_seconds = 0, 0.0
        self.clock = time.process_time()
        if self.file.exists():
            self._resume()

    def advance(self, step: int) -> None:
        """One optimiser step; every `SAVE_EVERY` of them the state goes to the disk."""
        training = self.training
        for group in self.optimiser.param_groups:
            group["lr"] = rate(step, training)
        loss = weighted_loss(self.network, self.author.step(training.seed, step, training.tokens))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.done = step + 1
        if self.done % SAVE_EVERY == 0 and self.done < training.steps:
            self._save()

    def finish(self, out: Path) -> Path:
        """The folder with weights, tokenizer and card; the training state goes away."""
        self._tick()
        self.network.eval()
        scores = evaluate(self.network)
        with whole_folder(out, marker="model.safetensors") as folder:
            self.network.config.architectures = [type(self.network).__name__]
            self.network.config.save_pretrained(folder)
            save_file(self.network.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
            tokenizer().save_pretrained(folder)
            parameters = sum(weight.numel() for weight in self.network.parameters())
            text = card(
                asdict(self.training),
                scores,
                parameters=parameters,
                words=len(self.author.words),
                cpu_seconds=self.cpu_seconds,
            )
            (folder / "README.md").write_text(text, encoding="utf-8")
        if self.file.exists():
            self.file.unlink()
            self.state.rmdir()
        return out

    def _tick(self) -> None:
        now = time.process_time()
        self.cpu_seconds += now - self.clock
        self.clock = now

    def _save(self) -> None:
        self._tick()
        tensors = {f"weight.{name}": weight for name, weight in self.network.state_dict().items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in moments.items()}
        # One file, so that weights, moments and step counter can never be of different steps.
        progress = {"done": self.done, "cpu_seconds": self.cpu_seconds, "training": asdict(self.training)}
        write_whole(self.file, save(tensors, metadata={"progress": json.dumps(progress)}))

    def _resume(self) -> None:
        with safe_open(self.file, framework="pt") as file:
            progress = json.loads(file.metadata()["progress"])
        if progress["training"] != asdict(self.training):
            raise BadInput(
                explain(
                    f"An unfinished training with other settings lies in {self.state}",
                    found=", ".join(f"{name}={value}" for name, value in progress["training"].items()),
                    do="finish it with the same settings, remove that folder, or choose another place",
                )
            )
        tensors = load_file(self.file)
        weights = {name: tensors[f"weight.{name}"] for name in self.network.state_dict()}
        self.network.load_state_dict(weights)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, index, *rest = name.split(".")
            if kind == "optimiser":
                moments.setdefault(int(index), {})[rest[0]] = tensor
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": moments})
        self.done, self.cpu_seconds = progress["done"], progress["cpu_seconds"]


def rate(step: int, training: Training) -> float:
    """The learning rate: up in a line, down in a half cosine to a hundredth of the peak."""
    if step < training.warm_up:
        return training.peak_rate * (step + 1) / training.warm_up
    progress = (step - training.warm_up) / max(1, training.steps - training.warm_up)
    return training.peak_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def weighted_loss(network: LlamaForCausalLM, rows: Rows) -> Tensor:
    """Mean next-token loss in nats, answers weighing `ANSWER_WEIGHT` times as much; never across two documents."""
    ids, document = torch.from_numpy(rows.ids), torch.from_numpy(rows.document)
    same = document[:, :, None] == document[:, None, :]
    # transformers adds this mask to the attention scores as it is.
    hidden = (~(same & torch.ones(same.shape[1:], dtype=torch.bool).tril())).float()[:, None] * torch.finfo().min
    logits = network(input_ids=ids, attention_mask=hidden, position_ids=torch.from_numpy(rows.positions)).logits
    inside = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0)
    weight = inside * (1 + (ANSWER_WEIGHT - 1) * torch.from_numpy(rows.answer)[:, :-1])
    nats = cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (nats * weight.flatten()).sum() / weight.sum()
