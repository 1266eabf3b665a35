"""Tables and plots from metrics files."""
