"""Benchmarks of jaxstyle against its peers: `scripts/benchmark`."""
