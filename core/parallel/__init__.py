"""Several processes that train one model: who they are, what they exchange, how a model is laid out over them."""
