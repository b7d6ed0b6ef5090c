"""Recipes: every number of a training run, validated, and the recipes that have a name."""
