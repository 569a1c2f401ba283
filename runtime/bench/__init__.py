"""`canthus bench`: command.py has the command and its options, each other file one measurement or what they share."""
