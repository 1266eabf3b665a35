"""Checks that a score is a code length: real scorers as black boxes, the text behind the divisor, the files alone."""
