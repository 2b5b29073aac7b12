"""Serving: the embedded model server. It reads SavedModels and imports nothing of the code that trains them."""
