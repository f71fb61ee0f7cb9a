"""The process beside a GPU: it takes the jobs of one lane, calls its back end, and streams the answers back."""
