"""Studies with the model: replayed traces, migration rates, one program under every kernel."""
