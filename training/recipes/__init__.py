"""Recipes: the validated numbers of a training run, and the recipes that have a name."""
