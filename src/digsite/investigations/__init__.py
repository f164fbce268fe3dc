"""Fixed sequences of methods that answer one question, with every control in place."""

from digsite.investigate.answer import Investigation as Investigation
from digsite.investigate.investigation import investigate as investigate
