"""`composer explore`: what an adapter has learned."""
