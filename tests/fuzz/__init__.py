"""Damaged and hostile files: mutations of small seed files, read in a child process with limits (`make fuzz`)."""
