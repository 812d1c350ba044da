"""The networks that predict the noise, and what they see."""
