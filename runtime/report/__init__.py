"""`canthus report`: what a table of points contains, as an HTML page."""
