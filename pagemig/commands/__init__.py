"""The command line: one thin parser a command."""
