"""TransformerLens' names for sites, both ways."""

from digsite._core.errors import NoSuchSite, explain
from digsite.sites.site import Site
from digsite.sites.table import GATED, transformer_lens_hooks


def to_transformer_lens(site: Site, *, gated: bool | None = None) -> str:
    """The TransformerLens name of a site, such as `blocks.5.attn.hook_z`.

    Args:
        site: One concrete site with all its heads; a TransformerLens name has no place for a head or several layers.
        gated: Whether the model's MLPs are gated; `mlp.hook_pre` is `mlp.gate` there and `mlp.up` elsewhere. None
            refuses both.

    Raises:
        NoSuchSite: TransformerLens has no name for it.

    Caveats:
        The same name is not always the same number: TransformerLens folds the norms' gains into weights and centres
        them unless told otherwise, and sets masked scores to -inf.
    """
    hooks = transformer_lens_hooks(gated=gated)
    asked = f"TransformerLens has no name for {site}{' unless gated is said' * (gated is None and site.name in GATED)}"
    if site.name not in hooks:
        raise NoSuchSite(explain(asked, possible=hooks))
    if site.head is not None or not site.is_concrete:
        raise NoSuchSite(explain(asked, do="Name one layer and all its heads, then index the tensor; see Site.expand"))
    hook = hooks[site.name]
    return hook if site.layer is None else f"blocks.{site.layer}.{hook}"


def from_transformer_lens(name: str, *, gated: bool | None = None) -> Site:
    """The site that a TransformerLens name means.

    Args:
        name: Such as `blocks.5.attn.hook_z` or `ln_final.hook_normalized`.
        gated: Whether the model's MLPs are gated; None refuses the two names that depend on it.

    Raises:
        NoSuchSite: It is not a TransformerLens name, or digsite has no such site.
    """
    if "hook_" not in name:
        asked = f"'{name}' is not a TransformerLens name"
        raise NoSuchSite(explain(asked, possible="blocks.5.attn.hook_z, hook_embed, ln_final.hook_normalized"))
    return Site.parse(name, gated=gated)
