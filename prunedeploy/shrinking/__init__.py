"""From a checkpoint or model to the shrunk model, in named steps."""
