"""The options of the commands: a dataclass for each, and how a dataclass becomes a command line."""
