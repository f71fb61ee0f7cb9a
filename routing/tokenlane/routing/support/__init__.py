"""What all components build on: owned tasks, and numbers of bytes."""
