"""Batch scoring: every user through a published model, into Parquet shards."""
