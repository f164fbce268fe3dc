"""How well a method finds a circuit that is known to be there, over the compiled programs."""

from digsite.scoreboard.board import Board as Board
from digsite.scoreboard.board import scoreboard as scoreboard
from digsite.scoreboard.judge import Judgement as Judgement
from digsite.scoreboard.judge import judge as judge
from digsite.scoreboard.methods import METHODS as METHODS
from digsite.scoreboard.methods import Method as Method
