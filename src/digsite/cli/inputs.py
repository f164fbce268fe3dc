"""What every command takes: a model and how it is loaded, a task and which examples of it."""

import inspect
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, validators

import digsite
from digsite._core.errors import BadInput, explain
from digsite.cli.outputs import note

if TYPE_CHECKING:
    from digsite import Model, Task

ModelName = Annotated[str, Parameter(help="A hub id, a folder with config.json and safetensors, or digsite/tinyworld.")]
TaskName = Annotated[
    str, Parameter(help="A family of `digsite task list`, or your own .csv, .tsv, .jsonl or .parquet file.")
]
Count = Annotated[int, Parameter(validator=validators.Number(gte=1))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a model is loaded.

    Attributes:
        dtype: Number format of the weights; the checkpoint's own unless given.
        device: Where it runs: cpu, cuda, cuda:1, …, or auto to spread it over several.
        revision: Branch, tag or commit of a hub model.
    """

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = None
    revision: str | None = None

    def load(self, name: str, *, verify: bool = True) -> "Model":
        """The model of this name, with Hugging Face's own chatter switched off."""
        note(f"loading {name}")
        _hush()
        return digsite.load(name, dtype=self.dtype, device=self.device, revision=self.revision, verify=verify)


AS_STORED = Loading()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Examples:
    """Which examples of a task.

    Attributes:
        n: Examples to use; unless given, what the family has (200 in most) or all rows of a file.
        seed: Of every random choice.
        corruption: How the corrupt prompts of ioi differ: abc, flip or random-names.
        language: The language of the prompts, where a family has several: english, or tavi of digsite/tinyworld.
        drop_unusable: Leave out the rows of your own file that cannot be used, instead of refusing the file.
    """

    n: Count | None = None
    seed: int = 0
    corruption: str | None = None
    language: str | None = None
    drop_unusable: bool = False

    def of(self, task: str) -> Callable[["Model"], "Task"]:
        """How the task of this name, or in this file, is made for a model.

        Raises:
            BadInput: No such family, or one that does not take an option that was given.
            LoadError: The file cannot be read.
        """
        options = {"corruption": self.corruption, "language": self.language}
        options = {name: value for name, value in options.items() if value is not None}
        return self._of_file(Path(task), options) if _is_file(task) else self._of_family(task, options)

    def _of_family(self, task: str, options: dict[str, str]) -> Callable[["Model"], "Task"]:
        family = digsite.tasks.family(task)
        taken = options_of(family)
        if unknown := [name for name in options if name not in taken]:
            asked = f"The task {task} takes no --{unknown[0]}"
            raise BadInput(explain(asked, possible=[f"--{name}" for name in taken] or "no options of its own"))
        size = {} if self.n is None else {"n": self.n}
        return partial(family, seed=self.seed, **size, **options)

    def _of_file(self, path: Path, options: dict[str, str]) -> Callable[["Model"], "Task"]:
        from digsite.tasks.records import read_records

        if options:
            raise BadInput(explain(f"Your own file takes no --{next(iter(options))}", do="leave it out"))
        frame = read_records(path)[: self.n]
        corrupt, wrong, group = (name if name in frame.columns else None for name in ("corrupt", "wrong", "group"))
        question = f"How does {{model}} answer the prompts of {path.stem}?"
        columns = {"corrupt": corrupt, "wrong": wrong, "group": group}
        about = {"name": path.stem, "question": question, "drop_unusable": self.drop_unusable}
        return partial(digsite.Task.from_frame, frame=frame, **columns, **about)


AS_USUAL = Examples()


def options_of(family: Any) -> list[str]:
    """The options of the command line that a task family takes."""
    return [name for name in ("corruption", "language") if name in inspect.signature(family).parameters]


def last_name(name: str) -> str:
    """The part of a model's name that names it among others: "gpt2" of "openai-community/gpt2"."""
    return Path(name).name or Path(name).resolve().name


def _is_file(task: str) -> bool:
    return bool(Path(task).suffix) or os.sep in task


def _hush() -> None:
    """Hugging Face's bars and warnings off; only downloads keep their bar, where somebody watches."""
    import huggingface_hub
    from transformers.utils import logging

    huggingface_hub.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="transformers|huggingface_hub|torch")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if sys.stderr.isatty():
        huggingface_hub.utils.enable_progress_bars()
