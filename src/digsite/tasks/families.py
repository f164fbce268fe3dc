"""The task families by name, for those who choose one by name: the command line and reports."""

import inspect
from collections.abc import Callable
from types import MappingProxyType

from digsite._core.errors import BadInput, explain
from digsite.tasks.agreement import subject_verb_agreement
from digsite.tasks.brackets import brackets
from digsite.tasks.build import option_text
from digsite.tasks.docstring import docstring_like
from digsite.tasks.facts import capital_of, fact_recall
from digsite.tasks.greater_than import greater_than
from digsite.tasks.induction import induction
from digsite.tasks.ioi import ioi
from digsite.tasks.is_a import is_a
from digsite.tasks.modular import modular_arithmetic
from digsite.tasks.pronoun import gendered_pronoun
from digsite.tasks.successor import successor
from digsite.tasks.task import Task
from digsite.tasks.two_hop import two_hop

FAMILIES = MappingProxyType(
    {
        "ioi": ioi,
        "greater-than": greater_than,
        "subject-verb-agreement": subject_verb_agreement,
        "gendered-pronoun": gendered_pronoun,
        "is-a": is_a,
        "capital-of": capital_of,
        "fact-recall": fact_recall,
        "successor": successor,
        "docstring": docstring_like,
        "induction": induction,
        "brackets": brackets,
        "modular-arithmetic": modular_arithmetic,
        "two-hop": two_hop,
    }
)
"""The generators of tasks by name. Each takes (model, n, *, seed) and options of its own."""


def family(name: str) -> Callable[..., Task]:
    """The generator of the task family of this name.

    Raises:
        BadInput: If there is no such family.
    """
    if name not in FAMILIES:
        raise BadInput(explain(f"There is no task family {name!r}", possible=list(FAMILIES), near=name))
    return FAMILIES[name]


def usual_options(name: str) -> dict[str, str]:
    """The options (as in `Task.options`) that a family has unless it is asked for others; none for no family."""
    parameters = inspect.signature(FAMILIES[name]).parameters.values() if name in FAMILIES else ()
    return {one.name: option_text(one.default) for one in parameters if one.name not in ("model", "n", "seed", "keep")}
