"""What scripts reply, as types."""
