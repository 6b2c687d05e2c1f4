"""Pure Fourier geometry on tensors: transforms, resampling, discs and shells. No microscope."""
