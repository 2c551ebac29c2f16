"""What an NVIDIA GPU does with our code and our engines; benchmarks/gpu_check.sh runs it."""
