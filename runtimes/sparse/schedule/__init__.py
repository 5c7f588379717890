"""How each layer is computed: schedules, candidates, cost, measurement."""
