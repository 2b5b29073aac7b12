"""TF Hub modules: loading, checking, building and converting them."""
