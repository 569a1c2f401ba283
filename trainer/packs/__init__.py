"""Faces cut out once, and the batches that training draws from them."""
