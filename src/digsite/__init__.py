"""digsite: from a Hugging Face model and a question to a tested explanation.

The names below are the door; each is imported when it is first used, so that importing digsite imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from digsite._core.version import __version__ as __version__

_ROOMS = {
    "digsite.models": (
        [
            "load",
            "Model",
            "Tokens",
            "Run",
            "Edit",
            "Plan",
            "replace",
            "add",
            "ablate",
            "patch",
            "scale",
            "cap",
            "swap",
            "apply",
            "plan_memory",
        ]
    ),
    "digsite.tasks": ["Task", "Corpus"],
    "digsite.sites": ["Site"],
    "digsite.artifacts": ["Result", "load_result"],
    "digsite.lenses": ["logit_lens"],
    "digsite.patching": [
        "activation_patching",
        "direct_attribution",
        "ablation",
        "components",
        "chain_patching",
        "copy_test",
    ],
    "digsite.heads": ["head_scores"],
    "digsite.graphs": ["Circuit"],
    "digsite.store": ["harvest", "Store"],
    "digsite.journal": ["Dig"],
    "digsite.directions": ["Direction", "Subspace"],
    "digsite.dictionaries": ["Dictionary"],
    "digsite.circuits": ["eap", "eap_ig", "relp", "acdc", "evaluate_circuit", "faithfulness"],
    "digsite.editing": ["disable"],
    "digsite.investigations": ["investigate", "where"],
}
_WHERE = {name: room for room, names in _ROOMS.items() for name in names}
_ROOM_NAMES = (
    "models",
    "tasks",
    "sites",
    "artifacts",
    "lenses",
    "patching",
    "heads",
    "graphs",
    "store",
    "journal",
    "directions",
    "dictionaries",
    "circuits",
    "editing",
    "toys",
    "viz",
)

if TYPE_CHECKING:
    from digsite import (  # noqa: F401
        artifacts,
        circuits,
        dictionaries,
        directions,
        editing,
        graphs,
        heads,
        journal,
        lenses,
        models,
        patching,
        sites,
        store,
        tasks,
        toys,
        viz,
    )
    from digsite.artifacts import Result, load_result  # noqa: F401
    from digsite.circuits import acdc, eap, eap_ig, evaluate_circuit, faithfulness, relp  # noqa: F401
    from digsite.dictionaries import Dictionary  # noqa: F401
    from digsite.directions import Direction, Subspace  # noqa: F401
    from digsite.editing import disable  # noqa: F401
    from digsite.graphs import Circuit  # noqa: F401
    from digsite.heads import head_scores  # noqa: F401
    from digsite.investigations import investigate, where  # noqa: F401
    from digsite.journal import Dig  # noqa: F401
    from digsite.lenses import logit_lens  # noqa: F401
    from digsite.models import (  # noqa: F401
        Edit,
        Model,
        Plan,
        Run,
        Tokens,
        ablate,
        add,
        apply,
        cap,
        load,
        patch,
        plan_memory,
        replace,
        scale,
        swap,
    )
    from digsite.patching import (  # noqa: F401
        ablation,
        activation_patching,
        chain_patching,
        components,
        copy_test,
        direct_attribution,
    )
    from digsite.sites import Site  # noqa: F401
    from digsite.store import Store, harvest  # noqa: F401
    from digsite.tasks import Corpus, Task  # noqa: F401


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    if name in _ROOM_NAMES:
        return import_module(f"digsite.{name}")
    raise AttributeError(f"digsite has no {name!r}; it has {', '.join(sorted([*_WHERE, *_ROOM_NAMES]))}")


def __dir__() -> list[str]:
    return sorted([*_WHERE, *_ROOM_NAMES, "__version__"])
