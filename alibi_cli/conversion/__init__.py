"""A checkpoint in, a converted checkpoint out: plan, write, verify."""
