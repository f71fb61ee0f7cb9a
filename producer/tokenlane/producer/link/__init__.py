"""A client's link to its pool: open requests, and their messages put in order."""
