"""Activations and latents on disk, aligned by row, written once, resumable; and live models read the same way."""

from digsite.store.latents import Latents as Latents
from digsite.store.rows import Rows as Rows
from digsite.store.rows import Source as Source
from digsite.store.rows import Statistics as Statistics
