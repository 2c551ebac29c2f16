"""Real encoders on photographs."""
