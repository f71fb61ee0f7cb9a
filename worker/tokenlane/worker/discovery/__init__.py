"""Finds the back end of a lane that names none: which model servers answer, and which of them to use."""
