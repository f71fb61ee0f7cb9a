"""The process beside a GPU: it takes the jobs of one lane, calls its model server, and streams the answers back."""
