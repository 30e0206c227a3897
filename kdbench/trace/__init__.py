"""How a row came about: which records are behind it, and how each of its numbers follows from them."""
