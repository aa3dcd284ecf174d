"""How a scanner makes thick slices, and what can be told from them without a network."""
