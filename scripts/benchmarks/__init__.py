"""Measurements of jaxstyle beside its peers: `scripts/benchmark`."""
