"""Online mixtures of a neural distribution with exact causal counts: normalized, single pass, score before update."""
