"""Pages and plots of docs/, made from the JSON under benchmarks/results/."""
