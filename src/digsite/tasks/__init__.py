"""Questions in a measurable form: prompt pairs with known answers, generators of them, and text to take means over."""

from digsite.tasks.agreement import subject_verb_agreement as subject_verb_agreement
from digsite.tasks.answers import Answers as Answers
from digsite.tasks.brackets import brackets as brackets
from digsite.tasks.build import build as build
from digsite.tasks.chains import Chain as Chain
from digsite.tasks.chains import chain_task as chain_task
from digsite.tasks.corpus import Corpus as Corpus
from digsite.tasks.docstring import docstring_like as docstring_like
from digsite.tasks.examples import Example as Example
from digsite.tasks.facts import capital_of as capital_of
from digsite.tasks.facts import fact_recall as fact_recall
from digsite.tasks.families import FAMILIES as FAMILIES
from digsite.tasks.families import family as family
from digsite.tasks.families import usual_options as usual_options
from digsite.tasks.greater_than import greater_than as greater_than
from digsite.tasks.induction import induction as induction
from digsite.tasks.ioi import ioi as ioi
from digsite.tasks.is_a import is_a as is_a
from digsite.tasks.metrics import METRICS as METRICS
from digsite.tasks.modular import modular_arithmetic as modular_arithmetic
from digsite.tasks.pronoun import gendered_pronoun as gendered_pronoun
from digsite.tasks.successor import successor as successor
from digsite.tasks.task import Task as Task
from digsite.tasks.two_hop import two_hop as two_hop
