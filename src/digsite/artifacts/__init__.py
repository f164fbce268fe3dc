"""Results: frozen numbers with provenance and cost, saved to folders that are whole or not there."""

from digsite.artifacts.result import Result as Result
from digsite.artifacts.result import load_result as load_result
