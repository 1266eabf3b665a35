"""Online mixtures of a neural distribution with exact causal counts: normalised, single pass, score before update."""
