"""What measures and imitates: the provider simulator, the load generator, the benchmark commands."""
