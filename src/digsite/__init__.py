"""digsite: from a Hugging Face model and a question to a tested explanation."""

__version__ = "0.1.0"
