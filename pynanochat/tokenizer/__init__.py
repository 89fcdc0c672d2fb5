"""Text to token ids and back: byte-pair encoding, its training, and the rendering of conversations.

from pynanochat.tokenizer import Tokenizer
tokenizer = Tokenizer.train(texts, vocab_size=32768)
ids = tokenizer.encode("Hello world")
"""

from pynanochat.tokenizer.bpe import SPECIAL_TOKENS, StreamDecoder, Tokenizer
from pynanochat.tokenizer.chat import render_conversation, render_for_completion

__all__ = ["SPECIAL_TOKENS", "StreamDecoder", "Tokenizer", "render_conversation", "render_for_completion"]
