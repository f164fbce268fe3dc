"""What changes when a direction is added, taken away or held: steering, with its effect and its price."""

from digsite.directions.steering.card import SteerCard as SteerCard
from digsite.directions.steering.card import steer_card as steer_card
from digsite.directions.steering.condition import Condition as Condition
from digsite.directions.steering.condition import condition as condition
from digsite.directions.steering.control import equally_large as equally_large
from digsite.directions.steering.select import Selection as Selection
from digsite.directions.steering.select import select_direction as select_direction
from digsite.directions.steering.shown import show as show
from digsite.directions.steering.target import Target as Target
from digsite.directions.steering.target import log_odds as log_odds
from digsite.directions.steering.target import probe_target as probe_target
from digsite.directions.steering.target import task_target as task_target
from digsite.directions.steering.target import token_target as token_target
from digsite.directions.steering.vectors import FROM_LAST as FROM_LAST
from digsite.directions.steering.vectors import ActAdd as ActAdd
from digsite.directions.steering.vectors import AnswerPair as AnswerPair
from digsite.directions.steering.vectors import actadd as actadd
from digsite.directions.steering.vectors import caa as caa
from digsite.directions.steering.vectors import difference as difference
