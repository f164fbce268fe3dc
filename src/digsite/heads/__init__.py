"""What kind of head each head is, and whether it matters."""

from digsite.heads.confirming import HeadCheck as HeadCheck
from digsite.heads.confirming import confirm_heads as confirm_heads
from digsite.heads.detectors import HeadScores as HeadScores
from digsite.heads.detectors import KindScores as KindScores
from digsite.heads.detectors import head_scores as head_scores
from digsite.heads.rows import random_repeats as random_repeats
