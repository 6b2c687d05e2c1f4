"""The inner loops of slicing, in one set of kernels for each kind of machine.

``numba_kernels`` are compiled on first use and need no compiler; ``torch_kernels`` run everywhere and
are slower. All do the same arithmetic, and naive twins in float64 hold them to it.
"""
