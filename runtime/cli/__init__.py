"""The command line: the parser, and the options that several commands share."""
