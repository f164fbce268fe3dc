"""Which dictionaries a command line asks for: places, recipes and sizes, each combination with a name of its own."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from digsite._core.errors import BadInput, explain
from digsite.cli.inputs import Count

if TYPE_CHECKING:
    from digsite.dictionaries import Dictionary
    from digsite.dictionaries.recipes import Recipe

Family = Literal["sae", "transcoder", "skip", "crosscoder", "clt", "molt", "matryoshka"]
Several = Parameter(consume_multiple=True)

USUAL: Mapping[Family, str] = {
    "sae": "topk",
    "transcoder": "transcoder",
    "skip": "transcoder",
    "crosscoder": "crosscoder",
    "clt": "transcoder",
    "molt": "molt",
    "matryoshka": "matryoshka",
}
"""The recipe of each family, unless one is given."""
_ONE_PLACE = ("sae", "matryoshka")
_RANKS = (4, 8)
"""Of the maps of a MOLT, half of them each."""


@dataclass(frozen=True)
class Route:
    """What one dictionary reads and writes.

    Attributes:
        name: What it is called among others.
        reads: Columns.
        writes: Columns.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which dictionaries: one for each place, recipe and size that is given.

    Attributes:
        site: Where an SAE reads and writes, such as layers.2.resid_post; wildcards are allowed. The middle of the
            residual stream unless given; for a crosscoder all of it.
        reads: Where transcoders, CLTs and MOLTs read. The input of every MLP unless given.
        writes: What they write, as many. The output of every MLP unless given.
        family: sae, or transcoder where --reads is given. skip is a transcoder with a linear map beside it.
        recipe: How it is trained: topk, batchtopk, jumprelu-short, jumprelu, gated, april-2024, january-2025,
            matryoshka, transcoder, crosscoder, clt or molt. The usual one of the family unless given.
        latents: How many latents; of a CLT in each layer.
        expansion: Unless --latents is given: so many times the width of what is read.
        k: Latents that fire in a row, for recipes that choose them by number. 32 unless given; in narrow models an
            eighth of the width.
        l0: Latents that should fire in a row, for recipes with a penalty, which is moved until they do.
    """

    site: Annotated[list[str] | None, Several] = None
    reads: Annotated[list[str] | None, Several] = None
    writes: Annotated[list[str] | None, Several] = None
    family: Family | None = None
    recipe: Annotated[list[str] | None, Several] = None
    latents: Count | None = None
    expansion: Count = 8
    k: Annotated[list[Count] | None, Several] = None
    l0: Annotated[list[float] | None, Several] = None

    @property
    def kind(self) -> Family:
        """The family."""
        return self.family or ("transcoder" if self.reads or self.writes else "sae")

    def routes(self, expand: Callable[[str], list[str]], usual: Callable[[], list[str]]) -> list[Route]:
        """What each dictionary reads and writes.

        Args:
            expand: From a site with wildcards to columns.
            usual: The columns of an SAE without --site.

        Raises:
            BadInput: Sites of another family, or not as many to read as to write.
        """
        kind = self.kind
        paired = kind not in (*_ONE_PLACE, "crosscoder")
        wrong = {"--site": self.site} if paired else {"--reads": self.reads, "--writes": self.writes}
        if given := [name for name, value in wrong.items() if value is not None]:
            do = "--reads and --writes" if paired else "--site"
            raise BadInput(explain(f"The family {kind} takes no {given[0]}", possible=do))
        if paired:
            reads = _all(expand, self.reads or ["layers.*.mlp.norm"])
            writes = _all(expand, self.writes or ["layers.*.mlp.out"])
            if len(reads) != len(writes):
                found = f"{len(reads)} to read ({', '.join(reads[:3])} …), {len(writes)} to write"
                raise BadInput(explain(f"A {kind} reads as many sites as it writes", found=found))
            if kind == "clt":
                return [Route("clt", tuple(reads), tuple(writes))]
            return [Route(write, (read,), (write,)) for read, write in zip(reads, writes, strict=True)]
        if kind == "crosscoder":
            sites = tuple(_all(expand, self.site or ["layers.*.resid_post"]))
            if len(sites) < 2:
                raise BadInput(explain("A crosscoder reads several sites", found=", ".join(sites)))
            return [Route("crosscoder", sites, sites)]
        sites = _all(expand, self.site) if self.site else usual()
        return [Route(site, (site,), (site,)) for site in sites]

    def dictionaries(self, routes: list[Route], widths: Mapping[str, int]) -> dict[str, "tuple[Dictionary, Recipe]"]:
        """New dictionaries by name, each with its recipe.

        Args:
            routes: What they read and write.
            widths: Of every column.

        Raises:
            BadInput: There is no such recipe, or a size does not go with it.
        """
        plans = [(route, recipe, size) for route in routes for recipe, size in self._variants(widths[route.reads[0]])]
        recipes, sizes = {recipe.name for _, recipe, _ in plans}, {size for _, _, size in plans}
        made = {}
        for route, recipe, size in plans:
            parts = [route.name] if len(routes) > 1 else []
            parts += [_word(recipe.name)] if len(recipes) > 1 else []
            parts += [size] if len(sizes) > 1 else []
            made["-".join(parts) or self.kind] = (self._dictionary(route, recipe, widths), recipe)
        return made

    def _variants(self, width: int) -> Iterator[tuple["Recipe", str]]:
        """Every recipe in every size, with the size in words."""
        from digsite.dictionaries.recipes import RECIPES

        known = {_word(name): recipe for name, recipe in RECIPES.items()}
        names = [_word(name) for name in self.recipe or [USUAL[self.kind]]]
        if unknown := [name for name in names if name not in known]:
            raise BadInput(explain(f"There is no recipe {unknown[0]}", possible=list(known), near=unknown[0]))
        recipes = [known[name] for name in names]
        by_number = [hasattr(recipe.activation, "k") for recipe in recipes]
        if self.k and not any(by_number):
            raise BadInput(explain(f"The recipe {names[0]} takes no --k", do="--l0 says how many should fire"))
        if self.l0 and all(by_number):
            raise BadInput(explain(f"The recipe {names[0]} takes no --l0", do="--k says how many fire"))
        for recipe, numbered in zip(recipes, by_number, strict=True):
            if numbered:
                for k in self.k or [min(32, max(1, width // 8))]:
                    yield replace(recipe, activation=replace(recipe.activation, k=k)), f"k{k}"
            else:
                for l0 in self.l0 or [recipe.l0]:
                    yield replace(recipe, l0=l0), "" if l0 is None else f"l0_{l0:g}"

    def _dictionary(self, route: Route, recipe: "Recipe", widths: Mapping[str, int]) -> "Dictionary":
        from digsite import dictionaries
        from digsite.dictionaries.losses import Matryoshka

        reads, writes = ({name: widths[name] for name in some} for some in (route.reads, route.writes))
        width, activation = widths[route.reads[0]], recipe.activation
        latents = self.latents or (max(2, width // 4) if self.kind == "molt" else self.expansion * width)
        k = getattr(activation, "k", 1)
        if k > latents:
            asked = f"--k {k} of {latents:,} latents cannot fire in a row"
            raise BadInput(explain(asked, possible=f"--k 1 to {latents}", do="a smaller --k, or more --latents"))
        match self.kind:
            case "sae" | "matryoshka":
                nested = any(isinstance(term.loss, Matryoshka) for term in recipe.terms)
                prefixes = sorted({max(k, latents // part) for part in (16, 4, 1)}) if nested else ()
                return dictionaries.sae(reads, latents, activation, prefixes=prefixes)
            case "transcoder" | "skip":
                return dictionaries.transcoder(reads, writes, latents, activation, skip=self.kind == "skip")
            case "crosscoder":
                return dictionaries.crosscoder(reads, latents, activation)
            case "clt":
                return dictionaries.clt(reads, writes, latents, activation)
            case "molt":
                half = latents // 2
                ranks = [(n, min(rank, width)) for n, rank in zip((latents - half, half), _RANKS, strict=True) if n]
                return dictionaries.molt(reads, writes, ranks, activation)


AS_USUAL = Wanted()


def _all(expand: Callable[[str], list[str]], sites: list[str]) -> list[str]:
    return list(dict.fromkeys(column for site in sites for column in expand(site)))


def _word(name: str) -> str:
    """A recipe's name as one word of a command line."""
    return name.lower().replace(" ", "-")
