"""One file a study: its docstring gives the command, the hardware, the time and the numbers to expect."""
