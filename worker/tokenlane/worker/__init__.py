"""What runs beside a GPU: takes the jobs of one lane, calls its back end, streams the answers back."""
