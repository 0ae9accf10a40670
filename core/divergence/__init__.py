"""The divergence of two next-token distributions, cross-entropy, and their gradient in one pass."""
