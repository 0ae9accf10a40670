"""Configuration as data: the YAML files that Hydra composes. Nothing imports this package."""
