"""Language models: how a decoder comes to be, generation, word vectors."""
