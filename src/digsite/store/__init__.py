"""Activations and latents on disk, aligned by row, written once, resumable; and live models read the same way."""

from digsite.store.encodings import Encoding as Encoding
from digsite.store.harvest import harvest as harvest
from digsite.store.held import Held as Held
from digsite.store.joined import joined as joined
from digsite.store.latents import Latents as Latents
from digsite.store.live import LiveSource as LiveSource
from digsite.store.planning import HarvestPlan as HarvestPlan
from digsite.store.planning import plan_harvest as plan_harvest
from digsite.store.remembered import Remembered as Remembered
from digsite.store.rows import Rows as Rows
from digsite.store.rows import Source as Source
from digsite.store.rows import Statistics as Statistics
from digsite.store.shards import Encoder as Encoder
from digsite.store.shuffle import Shuffled as Shuffled
from digsite.store.store import Store as Store
