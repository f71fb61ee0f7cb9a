"""The soak: whether what the processes of a pool hold grows over time, at steady load with faults."""
