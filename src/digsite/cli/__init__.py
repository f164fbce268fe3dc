"""The `digsite` command, one file a noun. Importing it imports no torch: rooms load when a command runs."""
