"""The networks, their checkpoints, and the form in which backends run them."""
