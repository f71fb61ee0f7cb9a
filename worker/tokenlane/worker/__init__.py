"""The process next to a GPU: it runs the jobs of one lane, calls its model server, and streams the answers back."""
