"""The search for poses and density. Never touches disk, screen or plots: it yields records."""
