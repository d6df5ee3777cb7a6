"""Which of llama.cpp's native code computes here: the best CPU code that was proven to run, and the GPUs."""
