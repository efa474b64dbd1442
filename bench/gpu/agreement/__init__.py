"""Whether composed answers are right in the precision of the GPU."""
