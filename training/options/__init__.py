"""Options of the commands: a dataclass for each command, and the function that makes a command of one."""
