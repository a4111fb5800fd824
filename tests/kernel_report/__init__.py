"""`make kernel-report`: what the compiler made of every kernel, read from its code."""
