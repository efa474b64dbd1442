"""The kernels: composed logits from the logits of the members."""
