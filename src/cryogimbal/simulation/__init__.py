"""Makes data with a known answer: phantoms, densities of atomic models, particle stacks."""
