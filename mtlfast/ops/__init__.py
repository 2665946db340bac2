"""How a loss runs: autograd, the choice of a backend, the native ops, and the reference."""
