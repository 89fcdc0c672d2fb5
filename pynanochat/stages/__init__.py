"""The stages of a run: tokenizer, pretraining, and the later ones, on one training loop."""
