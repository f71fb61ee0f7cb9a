"""Pure decisions without I/O: which lane serves which request, in which order, and how to recover a failed attempt."""
