"""The report that a worker prints when it starts: its lane, its model server, its pool, and what is wrong with them."""
