"""The commands `worker`, `up` and `probe`."""
