"""Interventions on components: what writes the answer, what carries it, what breaks it."""

from digsite.patching.activation import PatchingResult as PatchingResult
from digsite.patching.activation import activation_patching as activation_patching
from digsite.patching.activation import moved as moved
from digsite.patching.chain import ChainPatching as ChainPatching
from digsite.patching.chain import chain_patching as chain_patching
from digsite.patching.components import components as components
from digsite.patching.components import evaluate_sets as evaluate_sets
from digsite.patching.components import replacements as replacements
from digsite.patching.copying import CopyTest as CopyTest
from digsite.patching.copying import copy_test as copy_test
from digsite.patching.direct import DirectAttribution as DirectAttribution
from digsite.patching.direct import direct_attribution as direct_attribution
from digsite.patching.sets import AblationResult as AblationResult
from digsite.patching.sets import ablation as ablation
