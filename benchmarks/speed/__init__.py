"""How fast digsite is beside plain Hugging Face and beside its peers; see README.md in this folder."""
