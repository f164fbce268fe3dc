"""Fixed sequences of methods that answer one question, with every control in place."""

from digsite.investigations.answer import Investigation as Investigation
from digsite.investigations.investigation import investigate as investigate
