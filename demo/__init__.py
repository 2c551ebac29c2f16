"""The demo: a real encoder and photographs (`demo`); a world whose truth is known (`demo.digits`)."""
