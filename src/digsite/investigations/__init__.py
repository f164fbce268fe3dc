"""Fixed sequences of methods that answer one question, with every control in place."""

from digsite.investigations.answer import Investigation as Investigation
from digsite.investigations.battery import BatteryResult as BatteryResult
from digsite.investigations.battery import battery as battery
from digsite.investigations.investigation import investigate as investigate
from digsite.investigations.located import WhereInvestigation as WhereInvestigation
from digsite.investigations.moving import examine as examine
from digsite.investigations.moving import move as move
from digsite.investigations.neighbours import Neighbours as Neighbours
from digsite.investigations.neighbours import neighbours as neighbours
from digsite.investigations.where import where as where
