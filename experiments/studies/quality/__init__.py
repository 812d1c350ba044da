"""How good the samples are, and what each part of the recipe is worth."""
