"""Nearest-neighbour indexes behind one interface."""
