"""Training of gates on hidden states, by transformers and PEFT. Needs torch."""
