"""Retrieval, ranking, cold start, and the baselines they are held against."""
