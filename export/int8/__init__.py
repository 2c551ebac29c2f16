"""int8 graphs: calibrate, quantise, choose the layers that stay in float."""
