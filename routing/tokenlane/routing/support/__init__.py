"""What all components build on: owned tasks, and names for spans."""
