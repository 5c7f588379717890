"""How long a model should take on a machine that is not at hand: computed, never measured."""
