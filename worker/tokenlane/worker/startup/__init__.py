"""The report that a worker prints when it starts: its lane, its back end, its pool, and what is wrong with them."""
