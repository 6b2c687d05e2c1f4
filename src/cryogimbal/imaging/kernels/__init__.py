"""The inner loops of slicing, in one set of kernels for each kind of machine.

``numba_kernels`` are for a CPU and compiled on first use, without a compiler; ``triton_kernels`` are the
same for a GPU; ``torch_kernels`` run everywhere and are slower. All do the same arithmetic, and naive
twins in float64 hold them to it.
"""
