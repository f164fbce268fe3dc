"""Where a dictionary of another library reads and writes, as a column of digsite.

1. What the caller gives is taken as it is: a site, or `name:site` where several models stand side by side.
2. Else the file's own name is translated: a TransformerLens hook, or a module of the Hugging Face model.
3. A name with no equal among the sites is an error that says so; nothing is guessed.

TransformerLens' `hook_normalized` has no equal: it is the stream before the norm's gain, and `mlp.norm` is what the MLP
reads, after the gain. A dictionary that was trained on the first reads the second with W_enc divided by the gain.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from digsite._core.errors import BadInput, NoSuchSite, explain
from digsite.sites import Range, Site, from_transformer_lens, to_transformer_lens

_HOOKS = {"mlp.hook_in": "mlp.norm", "mlp.hook_out": "mlp.out"}
"""Hooks of TransformerLens' newer models, which are the module's own input and output."""
_MODULE_HOOK = re.compile(r"blocks\.(\d+|\*)\.(mlp\.hook_in|mlp\.hook_out)")
_MODULE = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(?P<layer>\d+)(?:\.(?P<part>.+))?")
_ENDS = {
    "": ("resid_pre", "resid_post"),
    "mlp": ("mlp.norm", "mlp.out"),
    "feed_forward": ("mlp.norm", "mlp.out"),
    "attn": ("attn.norm", "attn.out"),
    "attention": ("attn.norm", "attn.out"),
    "self_attn": ("attn.norm", "attn.out"),
    "self_attn.o_proj": ("attn.z", "attn.out"),
    "attn.c_proj": ("attn.z", "attn.out"),
    "attention.dense": ("attn.z", "attn.out"),
    "pre_feedforward_layernorm": ("resid_mid", "mlp.norm"),
    "post_feedforward_layernorm": (None, "mlp.out"),
}
"""What goes into a module and what comes out of it."""
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in")


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the caller says about a file; it wins over what the file says.

    Attributes:
        reads: The column that is read; with `*` for the layer where there are several.
        writes: The column that is written.
        model: The model that it was made for.
    """

    reads: str | None = None
    writes: str | None = None
    model: str | None = None

    def columns(self, reads: str, writes: str, where: str) -> tuple[str, str]:
        """The two columns; `reads` and `writes` are what the file says, as a column or in its own words."""
        return _column(self.reads, reads, "reads", where), _column(self.writes, writes, "writes", where)

    def column(self, told: str, where: str) -> str:
        """The one column of an SAE; `told` is what the file says."""
        if self.reads and self.writes and self.reads != self.writes:
            found = f"reads {self.reads}, writes {self.writes}"
            raise BadInput(explain(f"{where} is an SAE, which writes what it reads", found=found, do="Give column="))
        return _column(self.reads or self.writes, told, "reads", where)


def from_hook(hook: str) -> str:
    """The column that a TransformerLens hook is, or the hook itself where it has no equal."""
    match = _MODULE_HOOK.fullmatch(hook)
    if match is not None:
        return f"layers.{match[1]}.{_HOOKS[match[2]]}"
    if "hook_normalized" in hook:
        return hook
    try:
        return str(from_transformer_lens(hook))
    except NoSuchSite:
        return hook


def from_module(module: str, *, end: int) -> str:
    """The column that goes into (`end` 0) or comes out of (1) a module, or its name where there is no such site.

    Caveats:
        Where a model has a norm after its MLP or attention (Gemma 2 and 3, OLMo 2), the module's output is before that
        norm and digsite's `mlp.out` after it.
    """
    for position, word in enumerate((".input", ".output")):
        if module.endswith(word):
            module, end = module.removesuffix(word), position
    match = _MODULE.fullmatch(module)
    if match is None:
        return "embed" if module.rsplit(".", 1)[-1] in _EMBEDDINGS and end == 1 else module
    name = _ENDS.get(match["part"] or "", (None, None))[end]
    return module if name is None else f"layers.{match['layer']}.{name}"


def to_hook(column: str) -> str:
    """The TransformerLens name of a column, or the column itself where there is none."""
    try:
        site = Site.parse(column)
        if site.name == "mlp.norm":
            return f"blocks.{site.layer}.mlp.hook_in"
        return column if site.name.endswith("norm") else to_transformer_lens(replace(site, head=None))
    except NoSuchSite:
        return column


def at_layers(column: str, layers: Iterable[int]) -> list[str]:
    """A column of each layer, from one that says `*`."""
    layers, site = list(layers), Site.parse(column)
    if not isinstance(site.layer, Range):
        if layers == [site.layer]:
            return [column]
        do = f"Write * for the layer: {column.replace(str(site.layer), '*', 1)}"
        raise BadInput(explain(f"{column} is one layer, and the file has {len(layers)}", do=do))
    return [str(replace(site, layer=layer)) for layer in layers]


def layer_of(column: str) -> int:
    """The layer of a column."""
    site = Site.parse(column)
    if not isinstance(site.layer, int):
        raise BadInput(explain(f"{column} is not in one layer", do="Use a dictionary of sites inside layers"))
    return site.layer


def _column(given: str | None, told: str, verb: str, where: str) -> str:
    """What is given, else what the file says, where that is a site."""
    column = from_hook(given) if given and "hook_" in given else given or told
    untranslated = "hook_" in column
    if not untranslated:
        try:
            Site.parse(column.rpartition(":")[2])
            return column
        except NoSuchSite:
            if given:
                raise
    do = f"Name the site: {verb}=, or column= for an SAE (on the command line --{verb}, --column)"
    if "hook_normalized" in column:
        do += "; this hook is the stream before the norm's gain and mlp.norm after it: divide W_enc by the gain"
    found = f"the name '{column}', which is no site of digsite's" if column else "no name"
    raise BadInput(explain(f"{where} does not say what it {verb}", found=found, do=do))
