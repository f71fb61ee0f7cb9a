"""The root of the command line, and the options, output and error reports that all verbs share."""
