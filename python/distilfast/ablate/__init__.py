"""Which part of the method earns the quality."""
