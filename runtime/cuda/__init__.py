"""Crop and decode on an NVIDIA GPU: the kernels, their compiler, and what launches them."""
