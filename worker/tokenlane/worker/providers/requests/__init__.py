"""What every dialect does with a request before it is sent."""
