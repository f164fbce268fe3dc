"""Training of `digsite/tinyworld`, from nothing but a seed.

1. An ordinary transformers Llama with random weights; documents of the world made on the fly.
2. Next-token loss over every token of every document; answers weigh `ANSWER_WEIGHT` times as much as other tokens,
   because most other tokens (which name, which gift) cannot be foretold by anybody.
3. AdamW; two lessons, each with its share of notes, its warm-up and cosine: everything but notes, then everything.
4. A run that was killed goes on (see `toys.training`).
5. At the end: the held-out table, and a folder that transformers can load, written whole or not at all.
"""

from dataclasses import asdict, dataclass, replace
from itertools import accumulate
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
class Lesson:
    """A stretch of the training.

    Args:
        steps: Optimiser steps.
        notes: Fraction of the documents that are notes, half of them with two facts to be joined, half with one.
        rate: Learning rate after warm-up.
        last: Fraction of it that is left at the end.
    """

    steps: int
    notes: float
    rate: float
    last: float


LESSONS = (
    Lesson(steps=3500, notes=0.0, rate=2e-3, last=0.1),
    Lesson(steps=1200, notes=24 / 209, rate=1e-3, last=0.01),
)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the shipped model was trained; the card prints it.

    Args:
        lessons: What is learned, in order.
        tokens: Tokens of documents a step.
        seed: Of the weights and of the documents.
        warm_up: Steps at the beginning of a lesson in which the learning rate rises.
        weight_decay: Of the matrices.
        threads: Processor threads; two are faster on two free cores, one where others work too.
    """

    lessons: tuple[Lesson, ...] = LESSONS
    tokens: int = 4400
    seed: int = 0
    warm_up: int = 100
    weight_decay: float = 0.05
    threads: int = 1

    @property
    def steps(self) -> int:
        """Optimiser steps of all lessons."""
        return sum(lesson.steps for lesson in self.lessons)

    def shortened(self, steps: int) -> "Training":
        """The same lessons in so many steps altogether."""
        ends = [round(end * steps / self.steps) for end in accumulate(lesson.steps for lesson in self.lessons)]
        cut = zip(self.lessons, [0, *ends], ends, strict=False)
        return replace(self, lessons=tuple(replace(lesson, steps=end - start) for lesson, start, end in cut))

    def lesson(self, step: int) -> tuple[Lesson, int]:
        """The lesson that a step lies in, and how many steps of it were done before."""
        for lesson in self.lessons:
            if step < lesson.steps:
                return lesson, step
            step -= lesson.steps
        raise IndexError(step)


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

    def rate(step: int) -> float:
        lesson, done = training.lesson(step)
        return warm_cosine(peak=lesson.rate, steps=lesson.steps, warm_up=training.warm_up, last=lesson.last)(done)

    def optimiser(network: nn.Module) -> AdamW:
        return AdamW(network.parameters(), betas=(0.9, 0.98), weight_decay=training.weight_decay, fused=True)

    def loss(network: LlamaForCausalLM, step: int) -> Tensor:
        lesson, _ = training.lesson(step)
        return weighted_loss(network, author.step(training.seed, step, training.tokens, lesson.notes))

    return Recipe(
        name="tinyworld",
        settings=asdict(training),
        steps=training.steps,
        seed=training.seed,
        network=lambda: LlamaForCausalLM(config()),
        optimiser=optimiser,
        loss=loss,
        rate=rate,
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
