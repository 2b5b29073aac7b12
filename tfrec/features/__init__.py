"""Content features: extraction and the cache they are kept in."""
