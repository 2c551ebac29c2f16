"""The command line: the parser, the commands, and what they share."""
