"""cryogimbal finds the poses of cryo-EM particles and their 3-D density together, from nothing."""

__version__ = "0.1.0"
