"""What tests and benchmarks use; nothing else imports it."""
