"""Frozen nouns: optics, poses, particles, densities."""
