"""Benchmarks and test aids: the provider simulator, the load generator, the benchmark commands."""
