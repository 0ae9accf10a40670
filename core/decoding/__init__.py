"""One token of a whole model in one call: a program of compiled steps over the weights and states where they are."""
