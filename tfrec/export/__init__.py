"""From trained models to published SavedModels."""
