"""Assembly: from the command line's options to a running node."""
