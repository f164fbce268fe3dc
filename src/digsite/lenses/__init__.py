"""What the stream would say if it ended earlier."""

from digsite.lenses.identity import identity_prompt as identity_prompt
from digsite.lenses.logit_lens import LogitLens as LogitLens
from digsite.lenses.logit_lens import logit_lens as logit_lens
from digsite.lenses.patchscope import Patchscope as Patchscope
from digsite.lenses.patchscope import patchscope as patchscope
from digsite.lenses.patchscope import self_ie as self_ie
from digsite.lenses.token_tables import TokenTable as TokenTable
from digsite.lenses.token_tables import neuron_inputs as neuron_inputs
from digsite.lenses.token_tables import neuron_outputs as neuron_outputs
from digsite.lenses.token_tables import ov_table as ov_table
from digsite.lenses.token_tables import qk_table as qk_table
from digsite.lenses.written import WrittenTokens as WrittenTokens
from digsite.lenses.written import head_lens as head_lens
from digsite.lenses.written import neuron_lens as neuron_lens
