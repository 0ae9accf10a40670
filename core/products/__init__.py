"""Products of linear layers: one door, behind which the fastest of several implementations is chosen by measurement."""
