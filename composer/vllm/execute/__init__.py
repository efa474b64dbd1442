"""A step of the engine: workers, the composing sampler, adapters and auxiliary models."""
