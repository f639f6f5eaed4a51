"""Studies of the model: a trace replayed, migration rates, one program under every kernel."""
