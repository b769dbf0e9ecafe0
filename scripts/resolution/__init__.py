"""Tables of docs/resolution.md: what scales save, and what sizes need of memory."""
