"""Addresses inside a model: the grammar, the table of sites, and TransformerLens' names for them."""

from digsite.sites.site import ALL as ALL
from digsite.sites.site import Range as Range
from digsite.sites.site import Site as Site
from digsite.sites.table import SITES as SITES
from digsite.sites.table import SiteKind as SiteKind
from digsite.sites.transformer_lens import from_transformer_lens as from_transformer_lens
from digsite.sites.transformer_lens import to_transformer_lens as to_transformer_lens
