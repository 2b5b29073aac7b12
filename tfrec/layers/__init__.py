"""Keras layers that the towers are built of."""
