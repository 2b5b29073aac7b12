"""The query tower and the candidate tower with its modalities."""
