"""The networks, their weights, and what they become when they are used."""
