"""What every run shares, whatever its system: settings, state, the loop, checkpoints, logs."""
