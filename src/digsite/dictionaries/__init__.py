"""Sparse dictionaries: SAEs, transcoders, crosscoders, CLTs, MOLTs; trained, judged and exchanged."""

from digsite.dictionaries.activations import AbsTopK as AbsTopK
from digsite.dictionaries.activations import BatchTopK as BatchTopK
from digsite.dictionaries.activations import Gated as Gated
from digsite.dictionaries.activations import GroupMax as GroupMax
from digsite.dictionaries.activations import JumpReLU as JumpReLU
from digsite.dictionaries.activations import Relu as Relu
from digsite.dictionaries.activations import TopK as TopK
from digsite.dictionaries.config import BlockConfig as BlockConfig
from digsite.dictionaries.config import Column as Column
from digsite.dictionaries.config import DictionaryConfig as DictionaryConfig
from digsite.dictionaries.config import Free as Free
from digsite.dictionaries.config import LowRank as LowRank
from digsite.dictionaries.config import PerSource as PerSource
from digsite.dictionaries.config import PerTarget as PerTarget
from digsite.dictionaries.config import Transforms as Transforms
from digsite.dictionaries.dictionary import Dictionary as Dictionary
from digsite.dictionaries.families import clt as clt
from digsite.dictionaries.families import crosscoder as crosscoder
from digsite.dictionaries.families import jacobian_pair as jacobian_pair
from digsite.dictionaries.families import molt as molt
from digsite.dictionaries.families import sae as sae
from digsite.dictionaries.families import transcoder as transcoder
from digsite.dictionaries.files import load as load
from digsite.dictionaries.files import save as save
from digsite.dictionaries.initial import initialise as initialise
