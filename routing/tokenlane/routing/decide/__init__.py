"""Pure decisions, without I/O: who may be served where, in which order, and what becomes of a broken attempt."""
