"""Training of `digsite/tinyworld`, from nothing but a seed.

1. An ordinary transformers Llama with random weights; documents of the world made on the fly.
2. Next-token loss over every token of every document; answers weigh `ANSWER_WEIGHT` times as much as other tokens,
   because most other tokens (which name, which gift) cannot be foretold by anybody.
3. AdamW, warm-up and cosine; a run that was killed goes on (see `toys.training`).
4. At the end: the held-out table, and a folder that transformers can load, written whole or not at all.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from transformers import LlamaConfig, LlamaForCausalLM

from digsite._core.files import whole_folder
from digsite.toys import training as trainer
from digsite.toys.tinyworld.card import card
from digsite.toys.tinyworld.documents import Author, Rows
from digsite.toys.tinyworld.evaluation import evaluate
from digsite.toys.tinyworld.vocabulary import BOS, CONTEXT, EOS, PAD, tokenizer, vocabulary
from digsite.toys.training import Recipe, Trained, warm_cosine

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
    training, out = training or Training(), Path(out)
    state = Path(f"{out}.training")
    threads = torch.get_num_threads()
    torch.set_num_threads(training.threads)
    try:
        _write(out, training, trainer.train(recipe(training), state))
        trainer.forget(state)
    finally:
        torch.set_num_threads(threads)
    return out


def recipe(training: Training) -> Recipe:
    """The training as a recipe."""
    author = Author()

    def optimiser(network: nn.Module) -> AdamW:
        return AdamW(network.parameters(), betas=(0.9, 0.98), weight_decay=training.weight_decay, fused=True)

    def loss(network: LlamaForCausalLM, step: int) -> Tensor:
        return weighted_loss(network, author.step(training.seed, step, training.tokens))

    return Recipe(
        name="tinyworld",
        settings=asdict(training),
        steps=training.steps,
        seed=training.seed,
        network=lambda: LlamaForCausalLM(config()),
        optimiser=optimiser,
        loss=loss,
        rate=warm_cosine(peak=training.peak_rate, steps=training.steps, warm_up=training.warm_up),
        clip=1.0,
        save_every=SAVE_EVERY,
    )


def _write(out: Path, training: Training, trained: Trained) -> None:
    """The folder with weights, tokenizer and card."""
    network = trained.network
    scores = evaluate(network)
    with whole_folder(out, marker="model.safetensors") as folder:
        network.config.architectures = [type(network).__name__]
        network.config.save_pretrained(folder)
        save_file(network.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
        tokenizer().save_pretrained(folder)
        text = card(
            asdict(training),
            scores,
            parameters=sum(weight.numel() for weight in network.parameters()),
            words=len(vocabulary()),
            cpu_seconds=trained.cpu_seconds,
        )
        (folder / "README.md").write_text(text, encoding="utf-8")


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
