"""Other people's results, checked from what their logs print."""
