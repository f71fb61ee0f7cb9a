"""The measurements of `tokenlane bench`, and the processes in which they run."""
