"""Tables of docs/resolution.md: savings through scales, and memory use by size."""
