"""The commands `status`, `doctor`, `policy`, `key` and `router`, and the completion of names in a shell."""
