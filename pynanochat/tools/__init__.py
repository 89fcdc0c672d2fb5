"""What the model may call: the calculator."""
