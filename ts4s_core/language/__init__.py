"""Language models: making their decoder, generating text, word vectors."""
