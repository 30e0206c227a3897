"""Loops that do what a trial of kdbench does, as others write them."""
