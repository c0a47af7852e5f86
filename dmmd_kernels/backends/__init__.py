"""Ways to run an op: modules with every op under the same name and signature, and why_not(...)."""
