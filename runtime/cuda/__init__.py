"""CUDA kernels that crop faces and decode maps on an NVIDIA GPU, their compiler, and the calls that launch them."""
