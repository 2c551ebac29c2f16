"""What a mask costs: time, memory and throughput."""
