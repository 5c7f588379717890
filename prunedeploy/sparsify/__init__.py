"""From a dense network to a sparse one: units, scores, budgets, schedules, and masks.

A *unit* is what is kept or removed together: a weight, a coupled channel, a block. A score ranks
units, a budget turns scores into a choice, a schedule says how many are kept at which step, and
masks, which live outside the module, hold the choice while the module is trained.
"""
