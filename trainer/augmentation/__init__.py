"""What a face may look like while a network learns."""
