"""From data to parameters: steps and the loop over them."""
