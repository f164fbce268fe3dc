"""Architectures as data: where their parts are and how fused projections are laid out."""

from digsite.models._adapters.layouts import Layout as Layout
from digsite.models._adapters.spec import Arch as Arch
from digsite.models._adapters.table import architecture as architecture
from digsite.models._adapters.table import known as known
