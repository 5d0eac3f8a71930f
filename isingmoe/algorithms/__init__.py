"""The algorithms that sample chains."""
