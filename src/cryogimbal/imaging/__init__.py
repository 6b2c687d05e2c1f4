"""Image formation: how a density at a pose becomes a predicted image. Start with ``model.py``."""
