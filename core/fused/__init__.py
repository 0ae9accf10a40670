"""Chains of elementwise operations of decoder layers in one pass over memory, with their gradients."""
