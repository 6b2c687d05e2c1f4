"""How good a result is: alignment of frames and hands, Fourier shell correlation, pose errors."""
