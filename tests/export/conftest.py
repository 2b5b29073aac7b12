"""The small platform, exported."""

from small_platform import dataset, loaded, model, recommender, retrieval, saved

__all__ = ["dataset", "loaded", "model", "recommender", "retrieval", "saved"]
