"""Any Hugging Face decoder, unmodified, with an address for every activation."""

from digsite.models.edits import Edit as Edit
from digsite.models.edits import ablate as ablate
from digsite.models.edits import add as add
from digsite.models.edits import apply as apply
from digsite.models.edits import cap as cap
from digsite.models.edits import patch as patch
from digsite.models.edits import replace as replace
from digsite.models.edits import scale as scale
from digsite.models.edits import swap as swap
from digsite.models.generate import Generation as Generation
from digsite.models.generate import Sampling as Sampling
from digsite.models.load import load as load
from digsite.models.made_by import made_by as made_by
from digsite.models.memory import MemoryPlan as MemoryPlan
from digsite.models.model import Model as Model
from digsite.models.plan import Plan as Plan
from digsite.models.resume import Resumable as Resumable
from digsite.models.run import Run as Run
from digsite.models.tokens import Tokens as Tokens
from digsite.models.tokens import Turn as Turn
from digsite.models.unloaded import plan_memory as plan_memory
from digsite.models.untrained import untrained as untrained
from digsite.models.weights import Weights as Weights
from digsite.models.weights import folded as folded
