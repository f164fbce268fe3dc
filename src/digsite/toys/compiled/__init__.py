"""Models that were compiled from programs, so that their circuits are known: `toys.compiled.compile_program("ioi")`."""

from digsite.toys.compiled.assemble import Hardness as Hardness
from digsite.toys.compiled.compiled import Compiled as Compiled
from digsite.toys.compiled.compiled import compile_program as compile_program
from digsite.toys.compiled.compiled import edge_effects as edge_effects
from digsite.toys.compiled.language import aggregate as aggregate
from digsite.toys.compiled.language import map_ as map_
from digsite.toys.compiled.language import select as select
from digsite.toys.compiled.language import selector_width as selector_width
from digsite.toys.compiled.language import sequence_map as sequence_map
from digsite.toys.compiled.language import total as total
from digsite.toys.compiled.library import PROGRAMS as PROGRAMS
from digsite.toys.compiled.library import program as program
from digsite.toys.compiled.program import Program as Program
