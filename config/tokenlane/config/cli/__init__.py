"""The root of the command line, and what all verbs share: options, output, failures."""
