"""Pages and pictures of docs/, made from the JSON under benchmarks/results/."""
