"""Pictures of points, schedules and losses, the animation, and the page about a run."""
